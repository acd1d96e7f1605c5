//! Devices hold code for each element type, so the set is closed.
use microseq::Scalar;

#[derive(Clone, Copy, Debug, Default)]
struct Fixed(i16);

impl Scalar for Fixed {}

fn main() {}
