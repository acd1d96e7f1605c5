//! The gradient store is f32, whatever the element type.
use microseq::{Accumulate, Host, KvMut, KvRef, Layout, RowsMut, RowsRef, bf16};

fn main() {
    let (from, mut into) = (vec![0.0f32; 16], vec![bf16::ZERO; 16]);
    let layout = Layout::dense(2, 2, 4);
    let _operands = Accumulate::<Host> {
        from: KvRef::packed(RowsRef::new(&from[..], layout).unwrap()).unwrap(),
        into: KvMut::packed(RowsMut::new(&mut into[..], layout).unwrap()).unwrap(),
    };
}
