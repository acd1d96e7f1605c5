//! Only one view to write may be alive, even of different rows.
use microseq::{Host, Layout, RowsMut};

fn main() {
    let mut memory = vec![0.0f32; 8];
    let mut first = RowsMut::<Host, f32>::new(&mut memory, Layout::dense(1, 1, 4)).unwrap();
    let mut second = RowsMut::<Host, f32>::new(&mut memory, Layout::dense(1, 1, 4).with_offset(4)).unwrap();
    first.get_mut(0, 0)[0] = 1.0;
    second.get_mut(0, 0)[0] = 2.0;
}
