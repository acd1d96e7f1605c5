//! What a view to write lends ends with the loan.
use microseq::{Host, Layout, RowsMut};

fn main() {
    let mut memory = vec![0.0f32; 8];
    let mut view = RowsMut::<Host, f32>::new(&mut memory, Layout::dense(2, 1, 4)).unwrap();
    let first = view.get_mut(0, 0);
    let second = view.get_mut(1, 0);
    first.swap_with_slice(second);
}
