//! Equality of bits: what surrounds a document, where it lies, how its sequence is cut and how many
//! threads run it must not show in its results.
//!
//! Asserted for every instruction set of the machine, for f32, f16 and bf16, over the operators of
//! `common/operators.rs`:
//! - out, lse and dq: the same bits in every packing, at every position, for every cut into steps and
//!   ranks, for 1, 2, 3 and 5 threads, in every run, in the step form and in the varlen form;
//! - dk and dv: the same, but for ranks, whose gradient stores are added up, so that there only runs
//!   of one number of ranks agree. For bf16 on AVX512-BF16 and AMX-BF16, cuts are left out that part a
//!   pair, or 32, of the document's rows (heads / kv_heads for each token): the device sums up so many
//!   at once and makes no promise there.
//!
//! Results of different instruction sets may differ, and do.

mod common;

use common::bits::{assert_same_bits, bits};
use common::cpus::{self, THREADS};
use common::document::{Around, Document, Others};
use common::operators;
use microseq::cpu::{Cpu, Isa};
use microseq::dev::run::{self, VarlenBatch};
use microseq::dev::{HostHarness, Random, oracle};
use microseq::{Attention, DType, Element, Varlen, bf16, f16};

macro_rules! for_each_type {
    ($($name:ident)+) => {$(
        mod $name {
            #[test]
            fn f32() {
                super::each_case::<f32>(super::$name);
            }

            #[test]
            fn f16() {
                super::each_case::<super::f16>(super::$name);
            }

            #[test]
            fn bf16() {
                super::each_case::<super::bf16>(super::$name);
            }
        }
    )+};
}

for_each_type! { packings steps threads ranks non_causal varlen first_tokens }

/// What a rule is tried on.
struct Case<E> {
    isa: Isa,
    /// The device with one thread.
    single: HostHarness<Cpu>,
    document: Document<E>,
    /// Names the case.
    what: String,
}

fn each_case<E: Element>(rule: fn(&Case<E>)) {
    for isa in cpus::isas() {
        for attention in operators::causal() {
            let document = Document::new(attention, length(&attention), 7);
            let what = format!("{isa}, {}, {attention:?}", E::DTYPE);
            rule(&Case { isa, single: cpus::harness(isa, 1), document, what });
        }
    }
}

/// More rows than a block of keys has, in every head_dim.
fn length(attention: &Attention) -> usize {
    match attention.head_dim() {
        0..=64 => 270,
        65..=128 => 150,
        129..=256 => 200,
        _ => 80,
    }
}

/// Neighbours, positions and padding.
fn packings<E: Element>(case: &Case<E>) {
    let alone = case.document.run(&case.single, &Around::nothing());
    assert!(bits(&alone.dkv).iter().any(|&x| x != 0), "there are gradients to compare");
    let arounds = [
        Around::documents(&[5], &[]),
        Around::documents(&[], &[3, 64]),
        Around::documents(&[1, 0, 62], &[17]).padding(9),
        Around::documents(&[64], &[64]).others(Others::Seed(2)),
        Around::documents(&[33], &[90]).padding(4).others(Others::Huge),
        Around::documents(&[7], &[5]).padding(6).others(Others::Nan),
    ];
    for around in arounds {
        let packed = case.document.run(&case.single, &around);
        packed.assert_same(&format!("{}, {around:?}", case.what), &alone);
    }
}

/// Cuts into steps, at every place.
fn steps<E: Element>(case: &Case<E>) {
    let alone = case.document.run(&case.single, &Around::nothing());
    for micro in [7, 16, 50, 64, 65, 128] {
        for around in [Around::nothing(), Around::documents(&[3], &[9]).padding(2)] {
            let around = around.steps_of(micro);
            let what = format!("{}, {around:?}", case.what);
            let cut = case.document.run(&case.single, &around);
            if parts_rows(case.isa, &case.document, &around) {
                cut.assert_same_rows(&what, &alone);
            } else {
                cut.assert_same(&what, &alone);
            }
        }
    }
}

/// Cuts among a document's first tokens and right behind them, which a device may take in a way of their
/// own, and documents that are nothing else.
fn first_tokens<E: Element>(case: &Case<E>) {
    const MICRO: u32 = 64;
    for length in [3, 7, 8, 9, 20, 75] {
        let document = Document::<E>::new(case.document.attention, length, 11);
        let alone = document.run(&case.single, &Around::nothing());
        for cut in [1, 2, 3, 5, 7, 8, 9] {
            let around = Around::documents(&[MICRO - cut], &[6]).steps_of(MICRO as usize);
            let what = format!("{}, {length} tokens, cut after {cut}", case.what);
            let given = document.run(&case.single, &around);
            if parts_rows(case.isa, &document, &around) {
                given.assert_same_rows(&what, &alone);
            } else {
                given.assert_same(&what, &alone);
            }
        }
    }
    // Whatever follows, the first tokens are what they were.
    let whole = case.document.run(&case.single, &Around::nothing());
    let heads = case.document.attention.heads();
    for length in [1, 4, 8, 9] {
        let first = case.document.first(length).run(&case.single, &Around::nothing());
        let what = format!("{}, the first {length}", case.what);
        let elements = first.out.len();
        assert_same_bits(format!("{what}: out"), &first.out, &whole.out[..elements]);
        assert_same_bits(format!("{what}: dq"), &first.dq, &whole.dq[..elements]);
        let all = whole.lse.len() / heads;
        let lse: Vec<f32> = whole.lse.chunks_exact(all).flat_map(|head| &head[..length]).copied().collect();
        assert_same_bits(format!("{what}: lse"), &first.lse, &lse);
    }
}

/// Whether the steps part rows that the device sums up at once.
fn parts_rows<E: Element>(isa: Isa, document: &Document<E>, around: &Around) -> bool {
    let at_once = match isa {
        Isa::Avx512Bf16 if E::DTYPE == DType::Bf16 => 2,
        Isa::AmxBf16 if E::DTYPE == DType::Bf16 => 32,
        _ => 1,
    };
    let begin: usize = around.before.iter().map(|&length| length as usize).sum();
    let mut cuts = (begin..begin + document.length).filter(|row| row % around.micro == 0);
    cuts.any(|row| !((row - begin) * document.attention.group()).is_multiple_of(at_once))
}

/// Numbers of threads, and one run after the other.
fn threads<E: Element>(case: &Case<E>) {
    for around in [Around::documents(&[40], &[20]), Around::documents(&[3], &[]).steps_of(60)] {
        let single = case.document.run(&case.single, &around);
        for threads in THREADS {
            let harness = cpus::harness(case.isa, threads);
            for run in 0..2 {
                let what = format!("{}, {around:?}, {threads} threads, run {run}", case.what);
                case.document.run(&harness, &around).assert_same(&what, &single);
            }
        }
    }
}

/// Numbers of ranks.
fn ranks<E: Element>(case: &Case<E>) {
    let alone = case.document.run(&case.single, &Around::nothing());
    let harness = cpus::harness(case.isa, 2);
    for (ranks, micro) in [(2, 96), (3, 0), (5, 48)] {
        let around = Around::documents(&[4], &[6]).steps_of(micro).ranks(ranks);
        let what = format!("{}, {around:?}", case.what);
        let shared = case.document.run(&harness, &around);
        shared.assert_same_rows(&what, &alone);
        case.document.run(&case.single, &around).assert_same(&what, &shared);
    }
}

/// Documents that see their own future: packings, and cuts between documents.
fn non_causal<E: Element>(case: &Case<E>) {
    // Operators of its own: once for each type and instruction set is enough.
    if case.document.attention.head_dim() != 1 {
        return;
    }
    for attention in operators::non_causal() {
        let document = Document::<E>::new(attention, 70, 9);
        let alone = document.run(&case.single, &Around::nothing());
        let harness = cpus::harness(case.isa, 3);
        let arounds = [
            Around::documents(&[33], &[9]).padding(5),
            Around::documents(&[70], &[50, 20]).steps_of(70),
            Around::documents(&[70], &[70]).steps_of(140).others(Others::Nan),
        ];
        for around in arounds {
            let what = format!("{}, {attention:?}, {around:?}", case.what);
            document.run(&harness, &around).assert_same(&what, &alone);
        }
    }
}

/// The last queries of a document as a plain varlen batch, over keys with rows of no document around.
fn varlen<E: Element>(case: &Case<E>) {
    const BEFORE: usize = 3;
    const QUERIES: usize = 40;
    let (attention, length) = (case.document.attention, case.document.length);
    let mut random = Random::new(3);
    let (q_width, k_width) =
        (attention.heads() * attention.head_dim(), attention.kv_heads() * attention.head_dim());
    let (k_all, v_all) = (random.elements::<E>(length * k_width), random.elements::<E>(length * k_width));
    let (q, dout) = (random.elements::<E>(length * q_width), random.elements::<E>(length * q_width));

    let last = (length - QUERIES) * q_width;
    let nan = vec![E::from_f32(f32::NAN); BEFORE * k_width];
    let behind = |k: &[E]| [&nan, k, &nan].concat();
    let (k, v) = (behind(&k_all), behind(&v_all));
    let run = |cu_seqlens_q: &[i32], cu_seqlens_k: &[i32], q: &[E], dout: &[E], k: &[E], v: &[E]| {
        let varlen = Varlen::new(cu_seqlens_q, cu_seqlens_k, q.len() / q_width, k.len() / k_width).unwrap();
        let batch = VarlenBatch { varlen, attention, q, k, v, dout: Some(dout) };
        run::varlen(&case.single, &batch).unwrap()
    };
    let whole = [0, length as i32];
    let expected = run(&whole, &whole, &q, &dout, &k_all, &v_all);
    let keys = [BEFORE as i32, (BEFORE + length) as i32];
    let part = run(&[0, QUERIES as i32], &keys, &q[last..], &dout[last..], &k, &v);

    assert_same_bits(format!("{}: out", case.what), &part.out, &expected.out[last..]);
    let lse: Vec<f32> =
        expected.lse.chunks_exact(length).flat_map(|head| &head[length - QUERIES..]).copied().collect();
    assert_same_bits(format!("{}: lse", case.what), &part.lse, &lse);
    let (part, expected) = (part.gradients.unwrap(), expected.gradients.unwrap());
    assert_same_bits(format!("{}: dq", case.what), &part.dq, &expected.dq[last..]);
    let around = &part.dk[..BEFORE * k_width];
    assert!(oracle::widen(around).iter().all(|&x| x == 0.0), "{}: dk of no document", case.what);
}
