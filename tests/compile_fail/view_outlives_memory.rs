//! A view borrows its memory.
use microseq::{Host, Layout, RowsRef};

fn main() {
    let view = {
        let memory = vec![0.0f32; 8];
        RowsRef::<Host, f32>::new(&memory, Layout::dense(2, 1, 4)).unwrap()
    };
    view.get(0, 0);
}
