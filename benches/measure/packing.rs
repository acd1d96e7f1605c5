//! Other packings of the same size.

use microseq::dev::Random;

/// As many documents with as many tokens in all, cut at random places: lengths near an exponential
/// distribution, some documents perhaps empty.
pub(crate) fn redraw(lengths: &[u32], random: &mut Random) -> Vec<u32> {
    let total: u32 = lengths.iter().sum();
    let mut cuts: Vec<u32> = (1..lengths.len()).map(|_| random.below(total as usize + 1) as u32).collect();
    cuts.sort_unstable();
    let begins = [0].into_iter().chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain([total]);
    let drawn = begins.zip(ends).map(|(begin, end)| end - begin);
    drawn.take(lengths.len()).collect()
}
