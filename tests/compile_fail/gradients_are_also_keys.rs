//! The gradient store and the K/V store must not share memory.
use microseq::{Backward, Host, KvMut, KvRef, Layout, RowsMut, RowsRef};

fn main() {
    let (rows, lse) = (Layout::dense(2, 1, 4), Layout::lse(1, 2));
    let (ones, ends) = (vec![1.0f32; 8], vec![0.0f32; 2]);
    let (mut dq, mut store) = (vec![0.0f32; 8], vec![0.0f32; 16]);
    let read = RowsRef::<Host, f32>::new(&ones, rows).unwrap();
    let _operands = Backward::<Host, f32> {
        q: read,
        kv: KvRef::packed(RowsRef::new(&store[..], Layout::dense(2, 2, 4)).unwrap()).unwrap(),
        out: read,
        lse: RowsRef::new(&ends[..], lse).unwrap(),
        dout: read,
        dq: RowsMut::new(&mut dq[..], rows).unwrap(),
        dkv: KvMut::packed(RowsMut::new(&mut store[..], Layout::dense(2, 2, 4)).unwrap()).unwrap(),
    };
}
