//! Attention has no arithmetic on bytes, which are for scratch.
use microseq::{Flush, Host};

fn main() {
    fn check(_operands: Option<Flush<'_, Host, u8>>) {}
    check(None);
}
