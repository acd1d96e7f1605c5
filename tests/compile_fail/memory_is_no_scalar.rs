//! Views hold f32, f16, bf16 and bytes, nothing else.
use microseq::{Host, Layout, RowsRef};

fn main() {
    let memory = vec![0.0f64; 8];
    RowsRef::<Host, f64>::new(&memory, Layout::dense(2, 1, 4)).unwrap();
}
