//! A view to write is not copied: narrowing takes it.
use microseq::{Host, Layout, RowsMut};

fn main() {
    let mut memory = vec![0.0f32; 8];
    let mut view = RowsMut::<Host, f32>::new(&mut memory, Layout::dense(2, 1, 4)).unwrap();
    let mut part = view.narrow(0..1).unwrap();
    part.get_mut(0, 0)[0] = 1.0;
    view.get_mut(0, 0)[0] = 2.0;
}
