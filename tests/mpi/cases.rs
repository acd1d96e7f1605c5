//! Sequences on the processes' ranks, against one rank.

use crate::common::golden::micro_sequence_lengths;
use crate::common::ranked::{CUTS, Packed, sequences};
use crate::common::safetensors::Numbers;
use crate::{Process, harness};
use microseq::{
    Agreement, Attention, DType, Element, Host, KvMut, Layout, Plan, Problem, Ranks, RowsMut, bf16, f16,
};

/// How many sequences were right.
pub(crate) fn all(process: &Process) -> usize {
    let mut checked = 0;
    for (name, dtype) in sequences() {
        checked += match dtype {
            DType::F32 => golden::<f32>(process, &name),
            DType::F16 => golden::<f16>(process, &name),
            DType::Bf16 => golden::<bf16>(process, &name),
        };
    }
    assert!(checked >= 24, "{checked} golden sequences");
    large(process);
    checked + 1 + cuts::<f32>(process) + cuts::<bf16>(process)
}

fn golden<E: Numbers>(process: &Process, name: &str) -> usize {
    let packed = Packed::<E>::golden(name);
    let micros = micro_sequence_lengths(packed.tokens, &packed.attention);
    for &micro in &micros {
        if process.size == 1 || packed.attention.mask().causal {
            check(process, &packed, micro);
        } else {
            refused(process, &packed, micro);
        }
    }
    micros.len()
}

fn cuts<E: Element>(process: &Process) -> usize {
    let attention = Attention::new(4, 2, 16).unwrap();
    for (seed, (name, lengths, tokens, micro)) in CUTS.into_iter().enumerate() {
        check(process, &Packed::<E>::random(name, attention, lengths, tokens, seed as u64), micro);
    }
    CUTS.len()
}

fn check<E: Element>(process: &Process, packed: &Packed<E>, micro: usize) {
    let Process { rank, size, .. } = *process;
    let expected = packed.expected(&harness(), micro, size);
    let mut group = process.group(&packed.agreement(micro, size)).unwrap();
    let outcome = packed.ranked(&harness(), &mut group, micro).unwrap();
    packed.check_rank((rank, size), micro, &outcome, &expected, true);
}

fn view(memory: &mut [f32], layout: Layout) -> KvMut<'_, Host, f32> {
    KvMut::packed(RowsMut::of_slice(memory, layout).unwrap()).unwrap()
}

/// Rows of megabytes, which MPI moves otherwise than small ones, while the ranks do something else.
fn large(process: &Process) {
    const ROWS: usize = 1001;
    let Process { rank, size, .. } = *process;
    let attention = Attention::new(8, 8, 128).unwrap();
    let plan = Plan::new(&[ROWS as u32], ROWS).unwrap();
    let step = plan.steps().next().unwrap();
    let mut group = process.group(&Agreement::new(&plan, &attention, DType::F32, size)).unwrap();
    let layout = attention.kv_layout(ROWS);
    let value = |n: usize| (n % 100_003) as f32;
    let own = step.write_share(rank, size).unwrap();
    let own = own.start * layout.row_stride()..own.end * layout.row_stride();
    let elements = ROWS * layout.row_stride();
    let mut memory: Vec<f32> =
        (0..elements).map(|n| if own.contains(&n) { value(n) } else { f32::NAN }).collect();
    let busy = || (0..3_000_000u64).fold(0, |sum: u64, n| std::hint::black_box(sum.wrapping_add(n)));
    assert_ne!(group.gather(0, &step, view(&mut memory, layout), busy).unwrap(), 0);
    assert!(memory.iter().enumerate().all(|(n, &x)| x == value(n)));
    assert_ne!(group.reduce(0, &step, view(&mut memory, layout), busy).unwrap(), 0);
    assert!(own.into_iter().all(|n| memory[n] == size as f32 * value(n)));
}

/// Non-causal attention whose documents are cut by the shares is refused when it is planned, on some
/// rank; so it is found before any rank moves anything.
fn refused<E: Element>(process: &Process, packed: &Packed<E>, micro: usize) {
    let planned = |rank| {
        let step = packed.plan(micro).steps().next().unwrap();
        Problem::new(packed.attention, step.share(rank, process.size).unwrap(), E::DTYPE).is_ok()
    };
    assert!(!(0..process.size).all(planned), "{}", packed.name);
}
