//! A sequence run step by step over memory with gaps, every row that a step does not own poisoned.

use crate::common::bits::assert_same_bits;
use crate::common::cpus;
use crate::common::guarded::Guarded;
use microseq::cpu::{Cpu, Isa};
use microseq::dev::run::{self, Options, Sequence};
use microseq::dev::{Arrangement, HostHarness, Random};
use microseq::{Attention, Backward, Device, Element, Forward, Gather, Pass, Plan, Problem, Step, bf16};
use std::ops::Range;

/// Documents over several steps, several in a step, an empty one, padding.
const LENGTHS: [u32; 6] = [5, 40, 0, 3, 2, 21];
const TOKENS: usize = 80;
const MICRO: usize = 16;
/// Rows of the last steps are padding alone.
const _: () = assert!(5 + 40 + 3 + 2 + 21 < TOKENS && TOKENS.is_multiple_of(MICRO));

#[test]
fn f32_dense_and_strided() {
    all::<f32>();
}

#[test]
fn bf16_dense_and_strided() {
    all::<bf16>();
}

fn all<E: Element>() {
    let attention = Attention::new(4, 2, 24).unwrap();
    for isa in cpus::isas() {
        let inputs = Inputs::<E>::new(attention);
        let expected = inputs.expected(isa);
        for (arrangement, threads) in Arrangement::ALL.into_iter().flat_map(|a| [(a, 1), (a, 3)]) {
            let what = format!("{isa}, {}, {arrangement:?}, {threads} threads", E::DTYPE);
            Run::new(&inputs, arrangement, cpus::cpu(isa, threads), what).check(&expected);
        }
    }
}

struct Inputs<E> {
    attention: Attention,
    q: Vec<E>,
    kv: Vec<E>,
    dout: Vec<E>,
}

/// Dense results.
struct Expected<E> {
    out: Vec<E>,
    lse: Vec<f32>,
    dq: Vec<E>,
    dkv: Vec<f32>,
}

impl<E: Element> Inputs<E> {
    fn new(attention: Attention) -> Self {
        let mut random = Random::new(11);
        let q = TOKENS * attention.heads() * attention.head_dim();
        let kv = TOKENS * 2 * attention.kv_heads() * attention.head_dim();
        Self { attention, q: random.elements(q), kv: random.elements(kv), dout: random.elements(q) }
    }

    /// The sequence in one step, over dense memory.
    fn expected(&self, isa: Isa) -> Expected<E> {
        let plan = Plan::padded(&LENGTHS, TOKENS, TOKENS).unwrap();
        let Self { attention, q, kv, dout } = self;
        let inputs = Sequence { plan, attention: *attention, q, kv, dout: Some(dout) };
        let harness = HostHarness::new(cpus::cpu(isa, 1));
        let outcome = run::sequence(&harness, &inputs, Options::default()).unwrap();
        let gradients = outcome.gradients.unwrap();
        Expected { out: outcome.out, lse: outcome.lse, dq: gradients.dq, dkv: gradients.dkv }
    }
}

/// The tensors of a run, with gaps.
struct Run<E> {
    cpu: Cpu,
    what: String,
    attention: Attention,
    q: Guarded<E>,
    /// Where K and V come from.
    kv: Guarded<E>,
    dout: Guarded<E>,
    /// The slot.
    store: Guarded<E>,
    /// The gradient store, dense.
    gradients: Vec<f32>,
    out: Guarded<E>,
    lse: Guarded<f32>,
    dq: Guarded<E>,
}

/// What lies in the gaps of outputs. Not NaN, whose bits a copy may change.
const GUARD: f32 = -7.75;
/// A NaN that any arithmetic turns into another.
const SIGNALLING: f32 = f32::from_bits(0x7fa0_0000);

impl<E: Element> Run<E> {
    fn new(inputs: &Inputs<E>, arrangement: Arrangement, cpu: Cpu, what: String) -> Self {
        let attention = inputs.attention;
        let (heads, kv_heads, head_dim) = (attention.heads(), attention.kv_heads(), attention.head_dim());
        let q = arrangement.layout(TOKENS, heads, head_dim);
        let kv = arrangement.layout(TOKENS, 2 * kv_heads, head_dim);
        let (nan, guard) = (E::from_f32(f32::NAN), E::from_f32(GUARD));
        Self {
            cpu,
            what,
            attention,
            q: Guarded::holding(q, &inputs.q, nan),
            kv: Guarded::holding(kv, &inputs.kv, nan),
            dout: Guarded::holding(q, &inputs.dout, nan),
            store: Guarded::filled(kv, nan, guard),
            gradients: vec![0.0; inputs.kv.len()],
            out: Guarded::filled(q, nan, guard),
            lse: Guarded::filled(arrangement.lse_layout(heads, TOKENS), f32::NAN, GUARD),
            dq: Guarded::filled(q, nan, guard),
        }
    }

    fn check(mut self, expected: &Expected<E>) {
        let plan = Plan::padded(&LENGTHS, TOKENS, MICRO).unwrap();
        for step in plan.steps() {
            self.gather(&step);
            self.forward(&step);
        }
        for step in plan.steps().rev() {
            self.backward(&step);
        }
        let what = &self.what;
        assert_same_bits(format!("{what}: out"), &self.out.dense(), &expected.out);
        assert_same_bits(format!("{what}: dq"), &self.dq.dense(), &expected.dq);
        assert_same_bits(format!("{what}: dkv"), &self.gradients, &expected.dkv);
        let heads = self.attention.heads();
        let lse: Vec<f32> =
            (0..TOKENS * heads).map(|n| expected.lse[n % heads * TOKENS + n / heads]).collect();
        assert_same_bits(format!("{what}: lse"), &self.lse.dense(), &lse);
    }

    fn gather(&mut self, step: &Step<'_>) {
        // Rows of steps to come, too, if somebody had put something there.
        self.store.poison_outside(&(0..step.begin()), E::from_f32(f32::NAN));
        self.store.remember();
        let from = [self.kv.read_kv().narrow(step.write()).unwrap()];
        let into = self.store.write_kv().narrow(step.write()).unwrap();
        self.cpu.gather_into(Gather { from: &from, into }).unwrap();
        self.store.assert_untouched_outside(&format!("{}: slot", self.what), &step.write());
    }

    fn prepare(&self, step: &Step<'_>) -> <Cpu as Device>::Prepared {
        let problem = Problem::new(self.attention, *step, E::DTYPE).unwrap();
        self.cpu.prepare(&problem).unwrap()
    }

    /// The slot with NaN in every row that the step does not see.
    fn window(&self, step: &Step<'_>) -> Guarded<E> {
        let mut window = Guarded::holding(self.store.layout(), &self.store.dense(), E::from_f32(f32::NAN));
        window.poison_outside(&step.window(), E::from_f32(f32::NAN));
        window
    }

    fn forward(&mut self, step: &Step<'_>) {
        let prepared = self.prepare(step);
        let window = self.window(step);
        let mut scratch = Scratch::new(self.cpu.scratch_bytes(&prepared, Pass::Forward), step.index());
        self.out.remember();
        self.lse.remember();
        let operands = Forward {
            q: self.q.read().narrow(step.rows()).unwrap(),
            kv: window.read_kv().narrow(step.window()).unwrap(),
            out: self.out.write().narrow(step.rows()).unwrap(),
            lse: self.lse.write().narrow(step.rows()).unwrap(),
        };
        self.cpu.forward(&prepared, operands, scratch.lend()).unwrap();
        scratch.assert_guards(&self.what);
        self.out.assert_untouched_outside(&format!("{}: out", self.what), &step.rows());
        self.lse.assert_untouched_outside(&format!("{}: lse", self.what), &step.rows());
    }

    /// The gradient store with signalling NaN in every row that the step adds nothing to: even
    /// adding 0 changes their bits.
    fn gradients(&self, added_to: &Range<usize>) -> Guarded<f32> {
        let mut gradients = Guarded::holding(self.store.layout(), &self.gradients, SIGNALLING);
        gradients.poison_outside(added_to, SIGNALLING);
        gradients.remember();
        gradients
    }

    fn backward(&mut self, step: &Step<'_>) {
        let prepared = self.prepare(step);
        let added_to = step.first_document_begin()..step.begin() + step.document_rows();
        let mut gradients = self.gradients(&added_to);
        let window = self.window(step);
        let mut scratch = Scratch::new(self.cpu.scratch_bytes(&prepared, Pass::Backward), step.index());
        self.dq.remember();
        let operands = Backward {
            q: self.q.read().narrow(step.rows()).unwrap(),
            kv: window.read_kv().narrow(step.window()).unwrap(),
            out: self.out.read().narrow(step.rows()).unwrap(),
            lse: self.lse.read().narrow(step.rows()).unwrap(),
            dout: self.dout.read().narrow(step.rows()).unwrap(),
            dq: self.dq.write().narrow(step.rows()).unwrap(),
            dkv: gradients.write_kv().narrow(step.window()).unwrap(),
        };
        self.cpu.backward(&prepared, operands, scratch.lend()).unwrap();
        scratch.assert_guards(&self.what);
        self.dq.assert_untouched_outside(&format!("{}: dq", self.what), &step.rows());
        gradients.assert_untouched_outside(&format!("{}: dkv", self.what), &added_to);
        let width = self.gradients.len() / TOKENS;
        let added_to = added_to.start * width..added_to.end * width;
        self.gradients[added_to.clone()].copy_from_slice(&gradients.dense()[added_to]);
    }
}

/// Scratch of exactly the size asked for, at odd addresses, full of NaN, with guards on both sides.
struct Scratch {
    memory: Vec<u8>,
    begin: usize,
    bytes: usize,
}

impl Scratch {
    /// All ones are NaN in every element type.
    const POISON: u8 = 0xff;
    const GUARD: u8 = 0x5a;
    const BEHIND: usize = 64;

    fn new(bytes: usize, misalignment: usize) -> Self {
        let begin = 64 + misalignment;
        let mut memory = vec![Self::GUARD; begin + bytes + Self::BEHIND];
        memory[begin..begin + bytes].fill(Self::POISON);
        Self { memory, begin, bytes }
    }

    fn lend(&mut self) -> &mut [u8] {
        &mut self.memory[self.begin..self.begin + self.bytes]
    }

    #[track_caller]
    fn assert_guards(&self, what: &str) {
        let (before, rest) = self.memory.split_at(self.begin);
        let mut guards = before.iter().chain(&rest[self.bytes..]);
        assert!(guards.all(|&byte| byte == Self::GUARD), "{what}: written outside of scratch");
    }
}
