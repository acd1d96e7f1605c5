//! A view lent to read cannot be written through until the loan ends.
use microseq::{Host, KvMut, Layout, RowsMut};

fn main() {
    let mut memory = vec![0.0f32; 16];
    let rows = RowsMut::<Host, f32>::new(&mut memory, Layout::dense(2, 2, 4)).unwrap();
    let mut kv = KvMut::packed(rows).unwrap();
    let frozen = kv.freeze();
    kv.key_mut(0, 0)[0] = 1.0;
    frozen.k().get(0, 0);
}
