#!/usr/bin/env bash
# Tries an archive of release.sh as someone without Rust would: checksum, unpacking, units, manual
# pages, completions, and the demo, with nothing on the PATH but the system's own commands.
#
#     crates/cli/packaging/try.sh target/dist/marill-VERSION-HOST.tar.gz
set -euo pipefail
archive=$(realpath "$1")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
prefix=$scratch/usr
mkdir "$prefix"

(cd "$(dirname "$archive")" && sha256sum --check --quiet "$archive.sha256")
tar -xzf "$archive" --strip-components=1 -C "$prefix"

clean() {
    env -i HOME="$scratch/home" PATH=/usr/bin:/bin TERM=dumb LANG=C.UTF-8 "$@"
}
mkdir "$scratch/home"
for tool in cargo rustc rustup; do
    if clean sh -c "command -v $tool" >/dev/null; then
        echo "there is a $tool on this PATH: it proves nothing" >&2
        exit 1
    fi
done

cat "$prefix/share/doc/marill/BUILD"
clean "$prefix/bin/marill" --version
bash -n "$prefix/share/bash-completion/completions/marill"
command -v fish >/dev/null && fish --no-execute "$prefix/share/fish/vendor_completions.d/marill.fish"
command -v zsh >/dev/null && zsh -n "$prefix/share/zsh/site-functions/_marill"
if command -v groff >/dev/null; then
    for page in "$prefix"/share/man/man1/*.1; do
        warnings=$(groff -man -Tutf8 -ww "$page" 2>&1 >/dev/null)
        [ -z "$warnings" ] || { echo "$page: $warnings" >&2; exit 1; }
    done
fi
if command -v systemd-analyze >/dev/null; then
    for unit in "$prefix"/lib/systemd/{system,user}/*.service; do
        sed -i "s|/usr/bin/marill|$prefix/bin/marill|" "$unit"
        said=$(systemd-analyze verify --man=no "$unit" 2>&1 | grep "$(basename "$unit")" || true)
        [ -z "$said" ] || { echo "$said" >&2; exit 1; }
    done
fi
grep -q '^serde ' "$prefix/share/doc/marill/THIRD-PARTY-LICENSES"
if strings -a "$prefix/bin/marill" | grep -F "$HOME/" | head -3 | grep .; then
    echo "the binary has paths of the machine that built it" >&2
    exit 1
fi

cd "$scratch/home"
clean "$prefix/bin/marill" doctor
clean "$prefix/bin/marill" demo
echo "the archive works"
