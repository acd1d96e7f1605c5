//! A view that is lent cannot be used until the loan ends.
use microseq::{Host, Layout, RowsMut};

fn main() {
    let mut memory = vec![0.0f32; 8];
    let mut view = RowsMut::<Host, f32>::new(&mut memory, Layout::dense(2, 1, 4)).unwrap();
    let mut lent = view.reborrow();
    view.get_mut(0, 0)[0] = 2.0;
    lent.get_mut(0, 0)[0] = 1.0;
}
