//! What is gathered must not lie in the slot.
use microseq::{Gather, Host, KvMut, KvRef, Layout, RowsMut, RowsRef};

fn main() {
    let mut slot = vec![0.0f32; 16];
    let layout = Layout::dense(2, 2, 4);
    let share = KvRef::packed(RowsRef::<Host, f32>::new(&slot, layout).unwrap()).unwrap();
    let into = KvMut::packed(RowsMut::<Host, f32>::new(&mut slot, layout).unwrap()).unwrap();
    let _operands = Gather { from: &[share], into };
}
