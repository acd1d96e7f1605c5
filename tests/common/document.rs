//! A document of interest, packed among others: what the device makes of it there.

use super::bits::assert_same_bits;
use microseq::cpu::Cpu;
use microseq::dev::run::{self, Options, Sequence};
use microseq::dev::{HostHarness, Random};
use microseq::{Attention, Element, Plan};

/// The document and its operator.
pub(crate) struct Document<E> {
    pub(crate) attention: Attention,
    pub(crate) length: usize,
    q: Vec<E>,
    kv: Vec<E>,
    dout: Vec<E>,
}

/// Where the document lies, and how the sequence is run.
#[derive(Clone, Debug)]
pub(crate) struct Around {
    /// Lengths of the documents before it.
    pub(crate) before: Vec<u32>,
    /// Lengths of the documents after it.
    pub(crate) after: Vec<u32>,
    /// Rows behind the last document.
    pub(crate) padding: usize,
    /// Rows of a step; 0 for the whole sequence.
    pub(crate) micro: usize,
    pub(crate) ranks: usize,
    /// What the other documents and the padding hold.
    pub(crate) others: Others,
}

/// Contents of the rows around a document.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Others {
    /// Numbers of a seed.
    Seed(u64),
    /// NaN everywhere.
    Nan,
    /// The largest numbers there are, of both signs.
    Huge,
}

impl Around {
    /// Nothing around, one step.
    pub(crate) fn nothing() -> Self {
        Self { before: vec![], after: vec![], padding: 0, micro: 0, ranks: 1, others: Others::Seed(1) }
    }

    /// Documents of these lengths around, one step.
    pub(crate) fn documents(before: &[u32], after: &[u32]) -> Self {
        Self { before: before.to_vec(), after: after.to_vec(), ..Self::nothing() }
    }

    pub(crate) fn steps_of(self, micro: usize) -> Self {
        Self { micro, ..self }
    }

    pub(crate) fn ranks(self, ranks: usize) -> Self {
        Self { ranks, ..self }
    }

    pub(crate) fn padding(self, padding: usize) -> Self {
        Self { padding, ..self }
    }

    pub(crate) fn others(self, others: Others) -> Self {
        Self { others, ..self }
    }
}

/// What the device made of the document.
#[derive(Clone, Debug)]
pub(crate) struct Results<E> {
    pub(crate) out: Vec<E>,
    /// `[heads, length]`.
    pub(crate) lse: Vec<f32>,
    pub(crate) dq: Vec<E>,
    pub(crate) dkv: Vec<f32>,
}

impl<E: Element> Results<E> {
    /// # Panics
    /// Where a bit of out, lse or dq differs.
    #[track_caller]
    pub(crate) fn assert_same_rows(&self, what: &str, expected: &Self) {
        assert_same_bits(format!("{what}: out"), &self.out, &expected.out);
        assert_same_bits(format!("{what}: lse"), &self.lse, &expected.lse);
        assert_same_bits(format!("{what}: dq"), &self.dq, &expected.dq);
    }

    /// # Panics
    /// Where any bit differs.
    #[track_caller]
    pub(crate) fn assert_same(&self, what: &str, expected: &Self) {
        self.assert_same_rows(what, expected);
        assert_same_bits(format!("{what}: dkv"), &self.dkv, &expected.dkv);
    }
}

impl<E: Element> Document<E> {
    pub(crate) fn new(attention: Attention, length: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let q = length * attention.heads() * attention.head_dim();
        let kv = length * 2 * attention.kv_heads() * attention.head_dim();
        Self { attention, length, q: random.elements(q), kv: random.elements(kv), dout: random.elements(q) }
    }

    /// A document of this one's first tokens.
    pub(crate) fn first(&self, length: usize) -> Self {
        let Self { attention, .. } = *self;
        let part = |of: &[E]| of[..of.len() / self.length * length].to_vec();
        Self { attention, length, q: part(&self.q), kv: part(&self.kv), dout: part(&self.dout) }
    }

    /// Runs a sequence that holds the document.
    pub(crate) fn run(&self, harness: &HostHarness<Cpu>, around: &Around) -> Results<E> {
        let own = self.length as u32;
        let lengths: Vec<u32> = around.before.iter().chain([&own]).chain(&around.after).copied().collect();
        let begin = around.before.iter().sum::<u32>() as usize;
        let tokens = lengths.iter().sum::<u32>() as usize + around.padding;
        let micro = if around.micro == 0 { tokens } else { around.micro };
        let surround = |own: &[E]| surround(own, begin, self.length, tokens, around.others);
        let (q, kv, dout) = (surround(&self.q), surround(&self.kv), surround(&self.dout));
        let inputs = Sequence {
            plan: Plan::padded(&lengths, tokens, micro).unwrap(),
            attention: self.attention,
            q: &q,
            kv: &kv,
            dout: Some(&dout),
        };
        let outcome =
            run::sequence(harness, &inputs, Options { ranks: around.ranks, ..Options::default() }).unwrap();
        let gradients = outcome.gradients.unwrap();
        let rows = begin..begin + self.length;
        let lse = outcome.lse.chunks_exact(tokens).flat_map(|head| &head[rows.clone()]).copied().collect();
        Results {
            out: part(&outcome.out, tokens, &rows),
            lse,
            dq: part(&gradients.dq, tokens, &rows),
            dkv: part(&gradients.dkv, tokens, &rows),
        }
    }
}

/// Some rows of a tensor of `tokens` rows.
fn part<T: Copy>(tensor: &[T], tokens: usize, rows: &std::ops::Range<usize>) -> Vec<T> {
    let width = tensor.len() / tokens;
    tensor[rows.start * width..rows.end * width].to_vec()
}

/// A document's rows at row `begin` of a tensor whose other rows hold something else.
fn surround<E: Element>(own: &[E], begin: usize, length: usize, tokens: usize, others: Others) -> Vec<E> {
    let width = own.len() / length;
    let mut tensor = match others {
        Others::Seed(seed) => Random::new(seed).elements(tokens * width),
        Others::Nan => vec![E::from_f32(f32::NAN); tokens * width],
        // Finite in every type.
        Others::Huge => {
            (0..tokens * width).map(|n| E::from_f32(if n % 3 == 0 { 6e4 } else { -6e4 })).collect()
        }
    };
    tensor[begin * width..(begin + length) * width].copy_from_slice(own);
    tensor
}
