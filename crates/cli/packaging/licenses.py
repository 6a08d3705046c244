#!/usr/bin/env python3
"""The licenses of all crates in the binary, with their texts: python3 licenses.py TARGET

Fails where a crate names no license, or where neither it nor another crate of the same license has
the text.
"""

import hashlib
import json
import pathlib
import subprocess
import sys

# Either spelling of the first.
NAMES = ("LICEN", "COPYING", "NOTICE", "UNLICEN", "COPYRIGHT")


def packages(target):
    """Packages that `marill` is linked from, without what only builds or tests it."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target]
    data = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    by_id = {package["id"]: package for package in data["packages"]}
    nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
    root = next(id for id, package in by_id.items() if package["name"] == "marill")
    reached, open_ids = set(), [root]
    while open_ids:
        at = open_ids.pop()
        if at in reached:
            continue
        reached.add(at)
        for edge in nodes[at]["deps"]:
            if any(kind["kind"] is None for kind in edge["dep_kinds"]):
                open_ids.append(edge["pkg"])
    found = [by_id[id] for id in reached if by_id[id]["source"] is not None]
    return sorted(found, key=lambda package: (package["name"], package["version"]))


def texts(package):
    folder = pathlib.Path(package["manifest_path"]).parent
    files = [file for file in folder.iterdir() if file.name.upper().startswith(NAMES)]
    named = package.get("license_file")
    if named:
        files.append(folder / named)
    files = sorted({file.resolve() for file in files if file.is_file()})
    return [(file.name, file.read_text(encoding="utf-8", errors="replace").strip()) for file in files]


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: licenses.py TARGET")
    all_packages = packages(sys.argv[1])
    shown, body, lacking = {}, [], []
    for package in all_packages:
        license = package["license"]
        if not license and not package.get("license_file"):
            sys.exit(f"{package['name']} {package['version']} names no license")
        found = texts(package)
        if not found:
            lacking.append(package)
        where = []
        for name, text in found:
            digest = hashlib.sha256(text.encode()).hexdigest()
            if digest not in shown:
                shown[digest] = len(shown) + 1
                body.append(f"[{shown[digest]}] {name} of {package['name']}\n\n{text}\n")
            where.append(f"[{shown[digest]}]")
        package["where"] = " ".join(where)
    # A crate of a workspace often leaves the text at the workspace's root, which is not published.
    have = {package["license"] for package in all_packages if package["where"]}
    for package in lacking:
        parts = package["license"].replace("/", " OR ").replace("(", "").replace(")", "")
        if not any(part in whole for part in parts.split(" OR ") for whole in have if whole):
            sys.exit(f"{package['name']}: no text of `{package['license']}` is at hand")
        package["where"] = "the text of that license below, as other crates carry it"
    print("Marill is linked from these crates. Numbers are the texts below.\n")
    for package in all_packages:
        by = ", ".join(package["authors"])
        by = f"; {by}" if by else ""
        license = package["license"] or "see its file"
        print(f"{package['name']} {package['version']}: {license} {package['where']}{by}")
    print("\n" + ("\n" + "-" * 80 + "\n\n").join(body))


main()
