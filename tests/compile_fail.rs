//! What the types refuse: aliasing, views and plans that outlive what they borrow, views used after
//! they were moved or while they are lent, element types that no device knows.
//!
//! The expected messages are those of the compiler that `rust-version` in `Cargo.toml` names and CI
//! runs; other versions word them differently. `TRYBUILD=overwrite` writes them anew.

#[test]
fn misuse_does_not_compile() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/compile_fail/pass/*.rs");
    cases.compile_fail("tests/compile_fail/*.rs");
}
