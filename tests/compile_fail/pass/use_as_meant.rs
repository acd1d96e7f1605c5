//! The right counterparts of what the neighbours do wrong: shows that these fail for the reason
//! given and no other.
use microseq::{Accumulate, Flush, Host, KvMut, KvRef, Layout, Plan, RowsMut, RowsRef, Step, bf16};

fn main() {
    let lengths = vec![4, 1, 10];
    let step: Step<'_> = Plan::new(&lengths, 5).unwrap().steps().next().unwrap();
    assert_eq!(step.documents(), 2);

    let (from, mut into) = (vec![1.0f32; 16], vec![0.0f32; 16]);
    let layout = Layout::dense(2, 2, 4);
    let mut rows = RowsMut::<Host, f32>::new(&mut into, layout).unwrap();
    rows.reborrow().narrow(0..1).unwrap().get_mut(0, 0)[0] = 1.0;
    assert_eq!(rows.freeze().get(0, 0)[0], 1.0);
    rows.get_mut(0, 0)[0] = 2.0;

    let mut kv = KvMut::packed(rows).unwrap();
    let from = KvRef::packed(RowsRef::<Host, f32>::new(&from, layout).unwrap()).unwrap();
    let operands = Accumulate::<Host> { from, into: kv.reborrow() };
    operands.check().unwrap();

    let mut rounded = vec![bf16::ZERO; 16];
    let into = KvMut::packed(RowsMut::new(&mut rounded[..], layout).unwrap()).unwrap();
    Flush::<Host, bf16> { from: kv.freeze(), into }.check().unwrap();
}
