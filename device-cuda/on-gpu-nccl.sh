#!/usr/bin/env bash
# Checks ranks over NCCL on a machine with GPUs, as on-gpu.sh checks the device:
#
#     device-cuda/on-gpu-nccl.sh build [FOLDER]   build and strip the programs into FOLDER
#     device-cuda/on-gpu-nccl.sh run [FOLDER [SECTION...]]
#                                                 run them: the repository's files are needed, Rust is not
#
# FOLDER is device-cuda/.on-gpu-nccl by default. Sections, all of them by default:
#
#   tests     ranks that are threads sharing the first GPU; one rank through NCCL; with two GPUs and more,
#             every case and every fault on as many ranks. What needs more GPUs than there are is ignored
#             with the reason, and listed.
#   example   examples/ranks: threads, and NCCL on every GPU
#   bench     a pack of 65,536 tokens on 1, 2, 4, ... GPUs beside bare NCCL calls
#
# `run` needs the driver and libnccl.so.2: the loader's, or that of Python's package nvidia-nccl.
set -euo pipefail
cd "$(dirname "$0")/.."

programs=$(realpath -m -- "${2:-device-cuda/.on-gpu-nccl}")
sections=("${@:3}")
failed=()

build() {
    mkdir -p "$programs"
    local said
    said=$(cargo test --release --package microseq-cuda --features nccl --test nccl --no-run 2>&1) ||
        { echo "$said" >&2; return 1; }
    cp "$(sed -n 's|^ *Executable tests/nccl\.rs (\(.*\))$|\1|p' <<<"$said")" "$programs/nccl"
    said=$(cargo bench --package microseq-cuda --features nccl --bench nccl --no-run 2>&1) ||
        { echo "$said" >&2; return 1; }
    cp "$(sed -n 's|^ *Executable benches/nccl\.rs (\(.*\))$|\1|p' <<<"$said")" "$programs/bench"
    cargo build --quiet --release --features nccl --example ranks
    cp "${CARGO_TARGET_DIR:-target}/release/examples/ranks" "$programs/ranks"
    strip "$programs"/{nccl,bench,ranks}
    { git rev-parse HEAD; git status --short -- core ranks device-cuda examples src Cargo.toml; } >"$programs/built"
}

# A heading, and a command whose failure is remembered.
section() {
    if [ ${#sections[@]} -gt 0 ] && [[ " ${sections[*]} " != *" $1 "* ]]; then
        return
    fi
    printf '\n=== %s (at %d s)\n' "$1" "$SECONDS"
    "${@:2}" || failed+=("$1")
}

# In the package's folder, where cargo would run it.
tests() {
    # GPUs of one process: with the host waiting for what ranks say, and as between processes.
    (cd device-cuda && timeout 300 "$programs/nccl" 2>&1) | grep -v '^$' &&
        (cd device-cuda && NCCL_P2P_DIRECT_DISABLE=1 timeout 300 "$programs/nccl" gpus 2>&1) | grep -v '^$'
}

example() {
    local gpus
    gpus=$(nvidia-smi --query-gpu=index --format=csv,noheader | wc -l)
    "$programs/ranks" --transport threads --ranks 4
    for ((n = 1; n <= gpus; n *= 2)); do
        timeout 120 "$programs/ranks" --transport nccl --ranks "$n" || return 1
    done
}

bench() {
    # As between processes.
    NCCL_P2P_DIRECT_DISABLE=1 timeout 300 "$programs/bench" | tee "$programs/benched"
    ! grep -q 'NOT RUN' "$programs/benched"
}

# Where NCCL is, if the loader does not know.
find_nccl() {
    ldconfig -p | grep -q 'libnccl\.so\.2' && return
    local folder
    folder=$(python3 -c 'import nvidia.nccl; print(list(nvidia.nccl.__path__)[0] + "/lib")' 2>/dev/null) || return 0
    export LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    echo "NCCL from $folder"
}

run() {
    nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
    nvidia-smi topo -m || true
    echo "built from $(cat "$programs/built")"
    chmod +x "$programs"/{nccl,bench,ranks}
    find_nccl
    section tests tests
    section example example
    section bench bench
    printf '\n%d s; failed: %s\n' "$SECONDS" "${failed[*]:-nothing}"
    [ ${#failed[@]} -eq 0 ]
}

case ${1:-} in
    build | run) "$1" ;;
    *) sed -n '2,/^set/s/^# \?//p' "$0" >&2; exit 2 ;;
esac
