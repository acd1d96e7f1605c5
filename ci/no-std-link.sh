#!/usr/bin/env bash
# Builds ci/no-std-link, a program of microseq-core alone, in both profiles, runs it, and checks
# that neither the crate graph nor the binary holds std or an allocator.
set -euo pipefail
cd "$(dirname "$0")/no-std-link"

target=${CARGO_TARGET_DIR:-$PWD/target}

fail() {
    echo "no-std-link: $1" >&2
    exit 1
}

# Features of the crates in the binary; procedural macros run in the compiler.
tree=$(cargo tree --edges normal,features,no-proc-macro --prefix none)
grep -q '^microseq-core v' <<<"$tree" || fail "cargo tree shows no microseq-core; the check is blind"
if grep -E 'feature "(std|alloc|dev)"' <<<"$tree"; then
    fail "a dependency has std, alloc or dev switched on"
fi

check() {
    local profile=$1 directory=$2
    cargo build --quiet --profile "$profile"
    local program="$target/$directory/no-std-link"
    "$program" || fail "$profile: the program exits with $?"
    local symbols
    symbols=$(nm --demangle "$program")
    if grep -E '\b(std|alloc)::|__(rust|rg|rdl)_alloc| (malloc|calloc|realloc|posix_memalign)(@|$)' <<<"$symbols"; then
        fail "$profile: std or an allocator is linked"
    fi
    grep -q ' T main$' <<<"$symbols" || fail "$profile: nm shows no main; the check is blind"
    echo "no-std-link: $profile: runs, no std, no allocator, $(stat -c %s "$program") bytes"
}

check dev debug
check release release
