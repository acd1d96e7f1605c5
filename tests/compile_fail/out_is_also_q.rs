//! A view to write and a view to read must not share memory.
use microseq::{Host, Layout, RowsMut, RowsRef};

fn main() {
    let mut memory = vec![0.0f32; 8];
    let q = RowsRef::<Host, f32>::new(&memory, Layout::dense(2, 1, 4)).unwrap();
    let out = RowsMut::<Host, f32>::new(&mut memory, Layout::dense(2, 1, 4)).unwrap();
    attend(q, out);
}

fn attend(_q: RowsRef<'_, Host, f32>, _out: RowsMut<'_, Host, f32>) {}
