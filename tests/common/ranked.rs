//! Packed sequences on several ranks, over any transport, against one rank.
//!
//! What every transport must do: `out`, `lse` and `dq` of a rank's rows have the bits that one rank
//! gives them, over the whole sequence in one step; `dk` and `dv` those of ranks that are simulated on
//! one device, whose stores are added up in rank order.

use super::bits::assert_same_bits;
use super::golden;
use super::safetensors::{File, Numbers};
use microseq::dev::run::{self, Options, Outcome, RankedError, Sequence, SequenceGradients};
use microseq::dev::{ErrorOf, Harness, Quantity, Random, SpaceOf, assert_close, oracle};
use microseq::{Agreement, Attention, DType, Element, Plan, Ranks};
use std::ops::Range;

/// What a run gives.
pub(crate) type Results<E> = Outcome<E, SequenceGradients<E>>;

/// A packed sequence and its inputs.
pub(crate) struct Packed<E> {
    pub(crate) name: String,
    pub(crate) attention: Attention,
    pub(crate) lengths: Vec<u32>,
    pub(crate) tokens: usize,
    q: Vec<E>,
    kv: Vec<E>,
    dout: Vec<E>,
    expected: Option<File>,
}

impl<E: Numbers> Packed<E> {
    /// A golden case in the sequence form.
    pub(crate) fn golden(name: &str) -> Self {
        let (input, expected) = File::case(name);
        let (q, kv, dout) = (input.tensor::<E>("q"), input.tensor::<E>("kv"), input.tensor::<E>("dout"));
        Self {
            name: name.into(),
            attention: golden::attention(&input, q.shape[1], kv.shape[1] / 2, q.shape[2]),
            lengths: input.lengths(),
            tokens: q.shape[0],
            q: q.elements,
            kv: kv.elements,
            dout: dout.elements,
            expected: Some(expected),
        }
    }
}

impl<E: Element> Packed<E> {
    /// Seeded data.
    pub(crate) fn random(
        name: &str,
        attention: Attention,
        lengths: &[u32],
        tokens: usize,
        seed: u64,
    ) -> Self {
        let mut random = Random::new(seed);
        let q = tokens * attention.heads() * attention.head_dim();
        let kv = tokens * 2 * attention.kv_heads() * attention.head_dim();
        let (q, kv, dout) = (random.elements(q), random.elements(kv), random.elements(q));
        Self { name: name.into(), attention, lengths: lengths.into(), tokens, q, kv, dout, expected: None }
    }

    pub(crate) fn plan(&self, micro: usize) -> Plan<'_> {
        Plan::padded(&self.lengths, self.tokens, micro).unwrap()
    }

    pub(crate) fn agreement(&self, micro: usize, ranks: usize) -> Agreement {
        Agreement::new(&self.plan(micro), &self.attention, E::DTYPE, ranks)
    }

    pub(crate) fn sequence(&self, micro: usize) -> Sequence<'_, E> {
        let Self { attention, q, kv, dout, .. } = self;
        Sequence { plan: self.plan(micro), attention: *attention, q, kv, dout: Some(dout) }
    }

    /// One rank's run over a transport.
    pub(crate) fn ranked<H: Harness, R: Ranks<Space = SpaceOf<H>>>(
        &self,
        harness: &H,
        ranks: &mut R,
        micro: usize,
    ) -> Result<Results<E>, RankedError<ErrorOf<H>, R::Error>> {
        run::ranked(harness, ranks, &self.sequence(micro))
    }

    /// What one rank gives, and so many simulated ones. Where the case has expected results, both are
    /// within tolerance of them.
    pub(crate) fn expected<H: Harness>(&self, harness: &H, micro: usize, ranks: usize) -> Expected<E> {
        let whole = Options::default();
        let single = run::sequence(harness, &self.sequence(self.tokens.max(1)), whole).unwrap();
        let simulated =
            run::sequence(harness, &self.sequence(micro), Options { ranks, ..Options::default() }).unwrap();
        for results in [&single, &simulated] {
            self.check_golden(results);
        }
        Expected { single, simulated }
    }

    fn check_golden(&self, results: &Results<E>) {
        let Some(expected) = &self.expected else { return };
        let gradients = results.gradients.as_ref().unwrap();
        let close = |tensor: &str, quantity, given: &[f64]| {
            let what = format!("{}: {tensor}", self.name);
            assert_close(&what, quantity, E::DTYPE, given, &expected.wide(tensor));
        };
        close("out", Quantity::Out, &oracle::widen(&results.out));
        close("lse", Quantity::Lse, &oracle::widen(&results.lse));
        close("dq", Quantity::Gradient, &oracle::widen(&gradients.dq));
        close("dkv", Quantity::Gradient, &oracle::widen(&gradients.dkv));
    }

    /// Checks a rank's own rows.
    ///
    /// # Panics
    /// Where a bit differs. Of `dkv`, where `sums` is false: where it is not within tolerance.
    #[track_caller]
    pub(crate) fn check_rank(
        &self,
        (rank, ranks): (usize, usize),
        micro: usize,
        given: &Results<E>,
        expected: &Expected<E>,
        sums: bool,
    ) {
        let what = format!("{}, steps of {micro}, rank {rank} of {ranks}", self.name);
        let q = self.attention.q_layout(self.tokens).row_stride();
        let kv = self.attention.kv_layout(self.tokens).row_stride();
        let (single, simulated) = (&expected.single, &expected.simulated);
        let gradients = |results: &Results<E>| results.gradients.clone().unwrap();
        let (given_gradients, single_gradients) = (gradients(given), gradients(single));
        let sums_expected = gradients(simulated).dkv;
        for step in self.plan(micro).steps() {
            let rows = step.write_share(rank, ranks).unwrap();
            let part = |tensor: &[E]| part(tensor, q, &rows);
            assert_same_bits(format!("{what}: out"), &part(&given.out), &part(&single.out));
            assert_same_bits(format!("{what}: dq"), &part(&given_gradients.dq), &part(&single_gradients.dq));
            for head in 0..self.attention.heads() {
                let rows = head * self.tokens + rows.start..head * self.tokens + rows.end;
                assert_same_bits(format!("{what}: lse"), &given.lse[rows.clone()], &single.lse[rows]);
            }
            let sum = self::part(&given_gradients.dkv, kv, &rows);
            let sum_expected = self::part(&sums_expected, kv, &rows);
            if sums {
                assert_same_bits(format!("{what}: dkv"), &sum, &sum_expected);
            } else {
                let (sum, expected) = (oracle::widen(&sum), oracle::widen(&sum_expected));
                assert_close(&format!("{what}: dkv"), Quantity::Gradient, DType::F32, &sum, &expected);
            }
        }
    }
}

/// What a rank's rows are compared with.
pub(crate) struct Expected<E> {
    /// One rank, one step.
    pub(crate) single: Results<E>,
    /// As many ranks as there are, one after the other on one device.
    pub(crate) simulated: Results<E>,
}

fn part<T: Copy>(tensor: &[T], row: usize, rows: &Range<usize>) -> Vec<T> {
    tensor[rows.start * row..rows.end * row].to_vec()
}

/// Golden cases in the sequence form, with their types: those that ranks can share out.
pub(crate) fn sequences() -> impl Iterator<Item = (String, DType)> {
    let typed = |name: String| {
        let (input, _) = File::case(&name);
        let dtype = input.dtype("q");
        input.has("kv").then_some((name, dtype))
    };
    golden::names().into_iter().filter_map(typed)
}

/// Lengths and steps such that documents begin before, at the begin of, inside, and at the end of ranks'
/// shares: `(what, lengths, tokens, micro_sequence_length)`.
pub(crate) const CUTS: [(&str, &[u32], usize, usize); 8] = [
    ("one document over all", &[48], 48, 12),
    ("a document per step", &[12, 12, 12, 12], 48, 12),
    ("documents begin inside of shares", &[5, 9, 8, 11, 15], 48, 12),
    ("documents of one row", &[1; 24], 24, 12),
    ("uneven shares and a short last step", &[7, 0, 20, 4], 31, 10),
    ("padding and empty documents", &[0, 9, 0, 0, 8, 0], 30, 7),
    ("more ranks than rows", &[3, 4], 7, 2),
    ("padding alone in the last steps", &[5], 24, 6),
];
