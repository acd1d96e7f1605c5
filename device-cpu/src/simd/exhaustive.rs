//! Functions of vectors at every f32 of their range, on every instruction set of this machine, against
//! float64. `ci/functions` runs this optimised: without, it takes a quarter of an hour.

use super::{Avx2, Avx512, Portable, Simd, exp2, ln};
use crate::Isa;
use core::ops::RangeInclusive;
use std::println;
use std::vec::Vec;

/// Numbers that are looked at together, and threads that share all.
const STRETCH: usize = 1 << 12;

/// A function of each of some numbers: a multiple of all lanes.
type Map = unsafe fn(&[f32], &mut [f32]);

/// A function on an instruction set, and what its error must be below, in ulp.
struct Subject {
    isa: Isa,
    map: Map,
    bound: f64,
}

/// The largest error so far, and where.
type Worst = (f64, f32);

/// A shell that maps a function of vectors, inside of the features of an instruction set.
macro_rules! shell {
    ($name:ident, $function:ident, $simd:ty $(, $features:literal)?) => {
        $(#[target_feature(enable = $features)])?
        unsafe fn $name(from: &[f32], to: &mut [f32]) {
            for (from, to) in from.chunks(<$simd>::LANES).zip(to.chunks_mut(<$simd>::LANES)) {
                // SAFETY: the caller has the instruction set, and whole vectors.
                unsafe {
                    <$simd>::store(to.as_mut_ptr(), $function::<$simd>(<$simd>::load(from.as_ptr())));
                }
            }
        }
    };
}

shell!(exp2_portable, exp2, Portable);
shell!(ln_portable, ln, Portable);
shell!(exp2_avx2, exp2, Avx2, "avx2,fma,f16c");
shell!(ln_avx2, ln, Avx2, "avx2,fma,f16c");
shell!(exp2_avx512, exp2, Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c");
shell!(ln_avx512, ln, Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c");

/// Distance in units of the last place of an f32 near `exact`.
#[inline]
fn ulps(given: f32, exact: f64) -> f64 {
    const LAST_PLACE: u64 = 23 << 52;
    let near = exact.abs().max(f64::from(f32::MIN_POSITIVE)).to_bits() & 0x7ff0_0000_0000_0000;
    (f64::from(given) - exact).abs() / f64::from_bits(near - LAST_PLACE)
}

/// The largest errors of subjects over the numbers with these bits.
fn worst_of(bits: RangeInclusive<u32>, exact: fn(f64) -> f64, subjects: &[Subject]) -> Vec<Worst> {
    let mut worst = std::vec![(0.0, 0.0); subjects.len()];
    let (mut from, mut to) = ([0.0; STRETCH], [0.0; STRETCH]);
    let mut expected = [0.0; STRETCH];
    for begin in bits.clone().step_by(STRETCH) {
        for (i, (x, y)) in from.iter_mut().zip(&mut expected).enumerate() {
            // The last stretch looks at its last number more than once.
            *x = f32::from_bits((begin + i as u32).min(*bits.end()));
            *y = exact(f64::from(*x));
        }
        for (subject, worst) in subjects.iter().zip(&mut worst) {
            // SAFETY: subjects are those of this machine; a stretch is whole vectors.
            unsafe { (subject.map)(&from, &mut to) };
            for (x, (y, expected)) in from.iter().zip(to.iter().zip(&expected)) {
                let error = ulps(*y, *expected);
                if error > worst.0 || error.is_nan() {
                    *worst = (error, *x);
                }
            }
        }
    }
    worst
}

/// Checks the subjects that this machine has over the numbers with these bits, on all its cores.
fn check(name: &str, bits: RangeInclusive<u32>, exact: fn(f64) -> f64, mut subjects: Vec<Subject>) {
    subjects.retain(|subject| subject.isa.available());
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    let share = (bits.end() - bits.start()) / threads + 1;
    let found: Vec<Vec<Worst>> = std::thread::scope(|scope| {
        let shares = (0..threads).map(|thread| bits.start() + thread * share);
        let begin = |begin: u32| {
            let (subjects, end) = (&subjects, begin.saturating_add(share - 1).min(*bits.end()));
            scope.spawn(move || worst_of(begin..=end, exact, subjects))
        };
        let running: Vec<_> = shares.map(begin).collect();
        running.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    for (i, Subject { isa, bound, .. }) in subjects.iter().enumerate() {
        let worst = found.iter().map(|worst| worst[i]).max_by(|a, b| a.0.total_cmp(&b.0)).expect("a thread");
        println!("{isa}: {name} is at most {:.4} ulp off, at {:e}", worst.0, worst.1);
        assert!(worst.0 < *bound, "{isa}: {name} of {:e} is {} ulp off", worst.1, worst.0);
    }
}

#[test]
#[ignore = "billions of numbers: ci/functions runs it optimised"]
fn exp2_of_every_number_below_128() {
    let (below_0, above) = (0x8000_0000..=f32::NEG_INFINITY.to_bits(), 0..=128f32.to_bits() - 1);
    for bits in [below_0, above] {
        // Without fused multiply-adds, every step rounds twice.
        let portable = Subject { isa: Isa::Portable, map: exp2_portable, bound: 1.23 };
        let avx2 = Subject { isa: Isa::Avx2, map: exp2_avx2, bound: 0.96 };
        let avx512 = Subject { isa: Isa::Avx512, map: exp2_avx512, bound: 0.96 };
        check("2^x", bits, f64::exp2, std::vec![portable, avx2, avx512]);
    }
}

#[test]
#[ignore = "billions of numbers: ci/functions runs it optimised"]
fn ln_of_every_normal_number_above_0() {
    let bits = f32::MIN_POSITIVE.to_bits()..=f32::MAX.to_bits();
    let subject = |isa, map: Map| Subject { isa, map, bound: 1.97 };
    let portable = subject(Isa::Portable, ln_portable);
    let (avx2, avx512) = (subject(Isa::Avx2, ln_avx2), subject(Isa::Avx512, ln_avx512));
    check("ln", bits, f64::ln, std::vec![portable, avx2, avx512]);
}
