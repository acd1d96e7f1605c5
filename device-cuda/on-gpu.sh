#!/usr/bin/env bash
# Checks the CUDA device on a machine with a GPU. Machines with GPUs often have no Rust, machines with
# Rust no GPU, so building and running are two commands:
#
#     device-cuda/on-gpu.sh build [FOLDER]   build and strip the programs into FOLDER
#     device-cuda/on-gpu.sh run [FOLDER [SECTION...]]
#                                            run them: the repository's files are needed, Rust is not
#
# FOLDER is device-cuda/.on-gpu by default. Sections are kernels, conformance, device, golden, replay,
# pack_text, bench, criterion, rivals, memcheck, initcheck, synccheck and racecheck; all of them by default.
# `run` needs a GPU and its driver; for kernels and rivals PyTorch, for the checks compute-sanitizer. Where a
# GPU has a choice of kernels, kernels to pack_text run with each, the others with MICROSEQ_CUDA_KERNELS
# as it is. rivals leaves its measurements in FOLDER/rivals.json or at RIVALS_JSON.
#
# racecheck runs every golden case and every rule of the conformance suite, each a process, the longest rules
# one for each type. Some take many minutes: each gets RACECHECK_EACH seconds (600), all of them together
# RACECHECK_ALL (3600). RACECHECK_ONLY, a regular expression, chooses among lines like "conformance
# flush_rounds" and "conformance steps_do_not_change_bits bf16". What did not run or did not end is listed and
# makes the script fail.
set -euo pipefail
cd "$(dirname "$0")/.."

programs=$(realpath -m -- "${2:-device-cuda/.on-gpu}")
sections=("${@:3}")
failed=()

# Where cargo has just left what it made of a source.
executable() {
    sed -n "s|^ *Executable $1\.rs (\(.*\))$|\1|p" "$programs/built"
}

build() {
    mkdir -p "$programs"
    cargo test --release --package microseq-cuda --tests --no-run 2>&1 | tee "$programs/built"
    local test
    for test in conformance device golden; do
        cp "$(executable "tests/$test")" "$programs/$test"
    done
    cargo build --release --features cuda --example replay --example pack_text --example bench
    for test in replay pack_text bench; do
        cp "${CARGO_TARGET_DIR:-target}/release/examples/$test" "$programs/$test"
    done
    cargo bench --features cuda --bench attention --no-run 2>&1 | tee "$programs/built"
    cp "$(executable benches/attention)" "$programs/attention"
    # A project of its own; in the same folder, so that what both need is built once.
    cargo build --release --locked --manifest-path benches/rivals/rust/Cargo.toml --target-dir "${CARGO_TARGET_DIR:-target}" \
        --no-default-features --features cuda --bin microseq
    cp "${CARGO_TARGET_DIR:-target}/release/microseq" "$programs/microseq"
    strip "$programs"/{microseq,conformance,device,golden,replay,pack_text,bench,attention}
    { git rev-parse HEAD; git status --short -- core device-cuda examples src Cargo.toml; } >"$programs/built"
}

# A heading, and a command whose failure is remembered.
section() {
    if [ ${#sections[@]} -gt 0 ] && [[ " ${sections[*]} " != *" $1 "* ]]; then
        return
    fi
    printf '\n=== %s, %s kernels (at %d s)\n' "$1" "${MICROSEQ_CUDA_KERNELS:-default}" "$SECONDS"
    "${@:2}" || failed+=("$1")
}

# The same with each family of kernels that the GPU has.
each_family() {
    MICROSEQ_CUDA_KERNELS=mma_small section "$@"
    MICROSEQ_CUDA_KERNELS=mma section "$@"
    if nvidia-smi --query-gpu=compute_cap --format=csv,noheader | grep -q '^9\.0'; then
        MICROSEQ_CUDA_KERNELS=wgmma section "$@"
    fi
}

kernels() {
    python3 device-cuda/kernels/test/check.py
}

rivals() {
    python3 benches/rivals/gpu.py "$programs/microseq" --built-from "$(head -n 1 "$programs/built")" \
        --json "${RIVALS_JSON:-$programs/rivals.json}"
}

# In the package's folder, where cargo would run it; a test that is ignored was not run.
tests() {
    local said
    said=$(cd device-cuda && "$programs/$1" 2>&1) || { echo "$said"; return 1; }
    grep -v '^$' <<<"$said"
    grep -q ' 0 failed; 0 ignored;' <<<"$said"
}

replay() {
    local input name
    for input in tests/golden/*.in.safetensors; do
        name=$(basename "$input" .in.safetensors)
        echo "$name"
        "$programs/replay" "$input" "$work/out" --device cuda \
            --expected "tests/golden/$name.expected.safetensors" || return 1
    done
}

# Fails by itself where out, lse or dq depend on the split.
pack_text() {
    local type
    for type in f32 f16 bf16; do
        "$programs/pack_text" README.md ARCHITECTURE.md --device cuda --type "$type" \
            --micro-sequence-length 1000 --ranks 2 --window 700 --layers 1 | grep -A 4 '^Check' || return 1
    done
    "$programs/pack_text" README.md ARCHITECTURE.md CHANGELOG.md core/src/*.rs --device cuda --type bf16 \
        --heads 8 --kv-heads 2 --head-dim 128
}

bench() {
    local type
    for type in bf16 f16 f32; do
        "$programs/bench" --device cuda --workload gpu_8x2k_unsplit --type "$type" --seconds 1 || return 1
    done
    "$programs/bench" --device cuda --workload gpu_pack_2k --type bf16 --fresh --seconds 1
}

# The criterion benches: one workload, in every type; which is fast is not looked at here.
criterion() {
    MICROSEQ_BENCH_DEVICE=cuda "$programs/attention" --bench --warm-up-time 0.5 --measurement-time 1 \
        gpu_8x2k_unsplit | grep -v '^$'
}

# A tool of compute-sanitizer over the golden cases and the conformance suite; of a report its beginning.
sanitize() {
    local program code summary bad=0
    for program in golden conformance; do
        code=0
        (cd device-cuda && timeout --kill-after=5 "${SANITIZE_EACH:-900}" compute-sanitizer --tool "$1" \
            --error-exitcode 99 "$programs/$program") >"$work/$1.$program" 2>&1 || code=$?
        summary=$(grep 'ERROR SUMMARY' "$work/$1.$program" || echo 'no summary')
        echo "$1 $program: exit status $code; $summary"
        if [ "$code" -ne 0 ] || [[ $summary != *' 0 errors'* ]]; then
            grep -m 60 '^=========' "$work/$1.$program" || true
            bad=1
        fi
    done
    return $bad
}

# racecheck of one test of a program, of one type where it is named: "clean", or what happened instead.
racecheck_one() {
    local program=$1 test=$2 begin=$SECONDS code=0
    if [ $# -gt 2 ]; then export MICROSEQ_TEST_TYPE=$3; fi
    local log=$work/$program.$test.${3:-all}
    (cd device-cuda && timeout --kill-after=5 "${RACECHECK_EACH:-600}" compute-sanitizer --tool racecheck \
        --error-exitcode 99 "$programs/$program" --exact "$test") >"$log" 2>&1 || code=$?
    local summary verdict
    summary=$(grep 'RACECHECK SUMMARY' "$log" || true)
    case $code in
        0) verdict=clean; [[ $summary == *' 0 hazards'* ]] || verdict="NO SUMMARY" ;;
        124 | 137) verdict="DID NOT END" ;;
        *) verdict="FAILED ($code)"; tail -n 20 "$log" ;;
    esac
    echo "racecheck $*: $verdict in $((SECONDS - begin)) s; ${summary:-no summary}"
}

racecheck() {
    if ! command -v compute-sanitizer >/dev/null; then
        echo "racecheck NOT RUN: no compute-sanitizer" >&2
        return 1
    fi
    local program test line long
    long='sequences_match_the_oracle|packing_does_not_change_bits|steps_do_not_change_bits|ranks_do_not_change_bits|steps_do_not_change_gradient_bits|a_zeroed_store_has_the_same_bits'
    for program in golden conformance; do
        for test in $(cd device-cuda && "$programs/$program" --list 2>/dev/null |
            sed -n 's/^\(\[.*\] \)\?\(.*\): test$/\2/p'); do
            if [[ $test =~ ^($long)$ ]]; then
                printf "$program $test %s\n" f32 f16 bf16
            else
                echo "$program $test"
            fi
        done
    done | grep -E "${RACECHECK_ONLY:-.}" >"$work/list"
    export -f racecheck_one
    export programs work RACECHECK_EACH
    # Several at once: most of their time is the tool's own, on the host. Not more: they share the GPU; of five
    # the longest took 154 s, of twenty it did not end in 560.
    timeout "${RACECHECK_ALL:-3600}" xargs -P 6 -L 1 \
        bash -c 'racecheck_one "$0" "$@"' <"$work/list" | tee "$work/raced" || true
    echo "racecheck: $(grep -c ': clean' "$work/raced") of $(wc -l <"$work/list") clean"
    while read -r line; do
        grep -q "^racecheck $line: clean" "$work/raced" || echo "  not clean or not run: $line"
    done <"$work/list"
    [ "$(grep -c ': clean' "$work/raced")" -eq "$(wc -l <"$work/list")" ]
}

run() {
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
    echo "built from $(cat "$programs/built")"
    chmod +x "$programs"/*
    each_family kernels kernels
    each_family conformance tests conformance
    each_family device tests device
    each_family golden tests golden
    each_family replay replay
    each_family pack_text pack_text
    section bench bench
    section criterion criterion
    section rivals rivals
    local tool
    for tool in memcheck initcheck synccheck; do section "$tool" sanitize "$tool"; done
    section racecheck racecheck
    printf '\n%d s; failed: %s\n' "$SECONDS" "${failed[*]:-nothing}"
    [ ${#failed[@]} -eq 0 ]
}

case ${1:-} in
    build | run) "$1" ;;
    *) sed -n '2,/^set/s/^# \?//p' "$0" >&2; exit 2 ;;
esac
