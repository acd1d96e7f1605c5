#!/usr/bin/env bash
# Makes everything that compare.py needs, in benches/rivals/.build (ignored by git): a virtual
# environment with PyTorch's CPU part, the MKL switch, and the Rust rivals.
#
# PyTorch's package on PyPI asks for gigabytes of CUDA libraries that a CPU never calls. It is installed
# without them; small stand-ins satisfy the linker (stand_ins.py). Where you can install PyTorch's CPU-only
# build, do so and name its Python: PYTHON=/path/to/python benches/rivals/compare.py.
#
# Needs python3 (with venv), a C compiler, readelf and cargo.
set -euo pipefail
cd "$(dirname "$0")"
build=$PWD/.build
mkdir -p "$build"

python3 -m venv "$build/venv"
pip=("$build/venv/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" --no-deps 'torch==2.13.*'
# What torch imports, and what compare.py draws with.
"${pip[@]}" filelock fsspec jinja2 'networkx>=2.5' numpy 'sympy>=1.13.3' typing-extensions matplotlib

torch=$(echo "$build"/venv/lib/python3*/site-packages/torch/lib)
python3 stand_ins.py "$torch" "$build/stand-ins"
cc -shared -fPIC -O2 -o "$build/always_intel.so" always_intel.c

# One build folder for all, unless the caller has one.
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$build/target} cargo build --release --locked --manifest-path rust/Cargo.toml
mkdir -p "$build/bin"
for rival in microseq candle burn; do
    cp "${CARGO_TARGET_DIR:-$build/target}/release/$rival" "$build/bin/"
done
LD_LIBRARY_PATH=$build/stand-ins "$build/venv/bin/python" -c 'import torch; print("PyTorch", torch.__version__)'
echo "Ready: benches/rivals/compare.py --help"
