#!/usr/bin/env bash
# Builds the wheel and installs it into bare environments, one for each Python that is there and each backend alone.
# In each a tiny training runs outside the checkout. Arguments: Pythons to try, else all. PYTHON builds the wheel.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

# from a copy, since modules that an earlier build left beside the sources would get in
mkdir "$work/source"
git -C "$root" ls-files -z | tar -C "$root" --null --files-from - --create | tar -C "$work/source" --extract
"${PYTHON:-python3}" -m pip wheel --quiet --quiet --no-deps --wheel-dir "$work" "$work/source"
wheel=$(echo "$work"/ivfast-*.whl)
echo "built ${wheel##*/}"

tiny='from pathlib import Path
from ivfast.data.synthetic import make_faces, save_set
save_set(Path("data"), "faces", *make_faces(5, n_identities=150, images=10, dim=16, n_query=60))'
fit_flags="--save_path fit_out --nlist 16 --epochs 2"
flags="--data_path data --data_name faces --learn_name learn_faces --nlist 16 --param_list 16 32 16 --epochs 2
    --warmup 1 --lr 2e-3 --percents 0 0.8 --gpu -1"

find_python() { # by its name, or where pyenv keeps it
    local candidate
    for candidate in "python$1" "$(pyenv prefix "$1" 2>/dev/null || true)/bin/python"; do
        if "$candidate" -c '' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

(($#)) || set -- 3.11 3.12 3.13
passed=0 failed=0
for version; do
    python=$(find_python "$version")
    if [[ -z $python ]]; then
        echo "python$version is not there"
        continue
    fi
    for backend in jax torch; do
        place=$work/$version-$backend started=$SECONDS
        "$python" -m venv "$place"
        install=("$place/bin/python" -m pip install --quiet --quiet --constraint "$root/constraints.txt")
        if [[ $backend == jax ]]; then
            "${install[@]}" "$wheel"
        else # the other backend is left out by hand
            "${install[@]}" faiss-cpu numpy rich safetensors torch
            "${install[@]}" --no-deps "$wheel"
        fi
        installed=$SECONDS
        mkdir "$place/run"
        if (cd "$place/run" && "$place/bin/python" -c "$tiny" &&
            "$place/bin/run_dcnet" --save_path out --backend "$backend" $flags &&
            "$place/bin/ivfast" fit data/faces/base.npy $fit_flags) >"$place/log" 2>&1 &&
            [[ -s $place/run/out/ivfast.npy && -s $place/run/fit_out/ivfast.npy ]]; then
            passed=$((passed + 1)) ended=trained
        else
            failed=$((failed + 1)) ended=FAILED
            tail -n 20 "$place/log"
        fi
        echo "python$version, $backend alone: $ended; installed in $((installed - started)) s," \
            "$(du -sm "$place" | cut -f 1) MB; run in $((SECONDS - installed)) s"
        rm -rf "$place"
    done
done
echo "$passed passed, $failed failed"
((passed > 0 && failed == 0))
