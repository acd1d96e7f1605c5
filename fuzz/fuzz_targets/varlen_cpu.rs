//! Small random problems on the CPU device: plain varlen batches against the float64 oracle, and
//! packed sequences cut into steps against the same sequence in one step, bit for bit.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use microseq::cpu::{Cpu, Isa};
use microseq::dev::oracle::{self, Inputs};
use microseq::dev::run::{self, Options, Sequence, VarlenBatch};
use microseq::dev::{Distance, HostHarness, Quantity, Random, tolerance};
use microseq::{Attention, Batch, DType, Element, Plan, Varlen, bf16, f16};
use std::sync::OnceLock;

#[derive(Arbitrary, Debug)]
struct Input {
    operator: Operator,
    documents: Vec<Document>,
    before: (Few, Few),
    after: (Few, Few),
    micro: u8,
    ranks: u8,
    element: u8,
    device: u8,
    seed: u16,
}

/// Rows of no document.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Few(u8);

impl Few {
    fn get(self) -> u8 {
        self.0 % 16
    }
}

#[derive(Arbitrary, Debug)]
struct Operator {
    kv_heads: u8,
    group: u8,
    head_dim: u8,
    non_causal: bool,
    window: Option<u8>,
    softcap: Option<u8>,
    scale: Option<i8>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Document {
    q_len: u8,
    k_len: u8,
}

impl Operator {
    fn attention(&self) -> Attention {
        let kv_heads = usize::from(self.kv_heads % 3) + 1;
        let heads = kv_heads * (usize::from(self.group % 4) + 1);
        let head_dim = usize::from(self.head_dim % 140) + 1;
        let mut attention = Attention::new(heads, kv_heads, head_dim).expect("in range");
        if self.non_causal {
            attention = attention.non_causal();
        }
        if let Some(window) = self.window {
            attention = attention.with_window(usize::from(window) + 1).expect("above 0");
        }
        if let Some(softcap) = self.softcap {
            attention = attention.with_softcap(f32::from(softcap) / 8.0 + 0.1).expect("above 0");
        }
        if let Some(scale) = self.scale {
            attention = attention.with_scale(f32::from(scale) / 128.0).expect("finite");
        }
        attention
    }
}

/// Rows of all documents, at most: the oracle is slow.
const ROWS: usize = 120;

fuzz_target!(|input: Input| {
    match input.element % 3 {
        0 => run::<f32>(&input),
        1 => run::<f16>(&input),
        _ => run::<bf16>(&input),
    }
});

fn run<E: Element>(input: &Input) {
    varlen::<E>(input);
    sequence::<E>(input);
}

/// Devices of every instruction set with 1 and 3 threads, made once.
fn device(choice: u8) -> &'static HostHarness<Cpu> {
    static DEVICES: OnceLock<Vec<HostHarness<Cpu>>> = OnceLock::new();
    let devices = DEVICES.get_or_init(|| {
        let isas = Isa::ALL.into_iter().filter(|isa| isa.available());
        let device = |isa, threads| Cpu::with_threads(threads).and_then(|cpu| cpu.with_isa(isa));
        let devices = isas.flat_map(|isa| [1, 3].map(|threads| device(isa, threads).expect("available")));
        devices.map(HostHarness::new).collect()
    });
    &devices[usize::from(choice) % devices.len()]
}

fn varlen<E: Element>(input: &Input) {
    let attention = input.operator.attention();
    let (mut cu_seqlens_q, mut cu_seqlens_k) =
        (vec![i32::from(input.before.0.get())], vec![i32::from(input.before.1.get())]);
    for document in &input.documents {
        let (q, k) = (cu_seqlens_q[cu_seqlens_q.len() - 1], cu_seqlens_k[cu_seqlens_k.len() - 1]);
        if (q + k) as usize > ROWS {
            break;
        }
        cu_seqlens_q.push(q + i32::from(document.q_len));
        cu_seqlens_k.push(k + i32::from(document.k_len));
    }
    let rows = |cu: &[i32], after: Few| cu[cu.len() - 1] as usize + usize::from(after.get());
    let (q_rows, k_rows) = (rows(&cu_seqlens_q, input.after.0), rows(&cu_seqlens_k, input.after.1));
    let varlen = Varlen::new(&cu_seqlens_q, &cu_seqlens_k, q_rows, k_rows).expect("rising and in bounds");

    let mut random = Random::new(input.seed.into());
    let mut tensor = |rows, heads| random.elements::<E>(rows * heads * attention.head_dim());
    let (q, dout) = (tensor(q_rows, attention.heads()), tensor(q_rows, attention.heads()));
    let (k, v) = (tensor(k_rows, attention.kv_heads()), tensor(k_rows, attention.kv_heads()));
    let batch = VarlenBatch { varlen, attention, q: &q, k: &k, v: &v, dout: Some(&dout) };
    let outcome = run::varlen(device(input.device), &batch).expect("a legal batch");

    let (q, k, v, dout) = (oracle::widen(&q), oracle::widen(&k), oracle::widen(&v), oracle::widen(&dout));
    let inputs = Inputs { q: &q, k: &k, v: &v, dout: Some(&dout) };
    let expected = oracle::attention(&attention, &Batch::Varlen(varlen), &inputs);
    let gradients = outcome.gradients.expect("dout was given");
    check("out", Quantity::Out, E::DTYPE, &outcome.out, &expected.out);
    check("lse", Quantity::Lse, E::DTYPE, &outcome.lse, &expected.lse);
    check("dq", Quantity::Gradient, E::DTYPE, &gradients.dq, &expected.dq);
    check("dk", Quantity::Gradient, E::DTYPE, &gradients.dk, &expected.dk);
    check("dv", Quantity::Gradient, E::DTYPE, &gradients.dv, &expected.dv);
}

/// The tolerance of the golden data, of numbers of magnitude 1 at least: gradients of few pairs may
/// cancel to nothing.
fn check<T: Element>(what: &str, quantity: Quantity, dtype: DType, given: &[T], expected: &[f64]) {
    let distance = Distance::between(&oracle::widen(given), expected);
    let allowed = 2.0 * tolerance(quantity, dtype) * distance.magnitude.max(1.0);
    assert!(distance.rms <= allowed, "{what}: {distance:?}, allowed {allowed:e}");
}

fn sequence<E: Element>(input: &Input) {
    let attention = input.operator.attention();
    let mut lengths = vec![];
    for document in &input.documents {
        if lengths.iter().sum::<u32>() as usize > ROWS {
            break;
        }
        lengths.push(document.q_len.into());
    }
    let tokens = lengths.iter().sum::<u32>() as usize + usize::from(input.after.0.get());
    // Short steps over long sequences are many oracle-free calls; keep them few.
    let micro = (usize::from(input.micro) + 1).max(tokens / 20);
    let mut random = Random::new(input.seed.into());
    let mut tensor = |heads: usize| random.elements::<E>(tokens * heads * attention.head_dim());
    let (q, dout) = (tensor(attention.heads()), tensor(attention.heads()));
    let kv = tensor(2 * attention.kv_heads());
    let run = |micro: usize, ranks: usize| {
        let plan = Plan::padded(&lengths, tokens, micro).expect("a legal plan");
        let inputs = Sequence { plan, attention, q: &q, kv: &kv, dout: Some(&dout) };
        run::sequence(device(input.device), &inputs, Options { ranks, ..Options::default() })
    };
    let whole = run(tokens.max(1), 1).expect("a whole sequence is legal");
    let ranks = usize::from(input.ranks % 4) + 1;
    // Non-causal attention refuses most cuts.
    let Ok(cut) = run(micro, ranks) else {
        assert!(!attention.mask().causal);
        return;
    };
    assert_same("out", &cut.out, &whole.out);
    assert_same("lse", &cut.lse, &whole.lse);
    let (cut, whole) = (cut.gradients.expect("dout was given"), whole.gradients.expect("dout was given"));
    assert_same("dq", &cut.dq, &whole.dq);
    if ranks == 1 {
        assert_same("dkv", &cut.dkv, &whole.dkv);
    }
}

fn assert_same<T: Element>(what: &str, given: &[T], expected: &[T]) {
    let bits = |x: &T| x.to_f32().to_bits();
    assert!(given.iter().map(bits).eq(expected.iter().map(bits)), "{what}: bits differ");
}
