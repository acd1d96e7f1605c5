//! Which block works on what, where blocks stay while there is work and do not wait for each other.

use core::cmp::Reverse;
use std::collections::BinaryHeap;

/// Shares pieces of work out over blocks: in their order, longest first, each to the block that has least to
/// do. A piece is a tile of one K/V head, `tile * heads + head`; `costs` are the tiles'. Returns where each
/// block's pieces begin among those of all, where the last one's end, and the pieces.
pub(crate) fn share_out(costs: &[u64], heads: usize, blocks: usize) -> Vec<i32> {
    let mut least: BinaryHeap<_> = (0..blocks).map(|block| Reverse((0, block))).collect();
    let mut shares = vec![Vec::new(); blocks];
    for (piece, cost) in costs.iter().flat_map(|cost| core::iter::repeat_n(cost, heads)).enumerate() {
        if let Some(mut first) = least.peek_mut() {
            let Reverse((busy, block)) = *first;
            shares[block].push(piece as i32);
            *first = Reverse((busy + cost, block));
        }
    }
    let mut end = 0;
    let ends = shares.iter().map(|share| {
        end += share.len() as i32;
        end
    });
    let begins: Vec<i32> = core::iter::once(0).chain(ends).collect();
    begins.into_iter().chain(shares.into_iter().flatten()).collect()
}

#[cfg(test)]
mod tests {
    use super::share_out;

    #[test]
    fn every_piece_is_in_one_share_and_shares_are_even() {
        let costs = [90, 60, 60, 31, 30, 8, 2, 1, 1];
        for (heads, blocks) in [(1, 1), (1, 4), (3, 5), (8, 132), (2, 18), (16, 7)] {
            let all = share_out(&costs, heads, blocks);
            let (begins, pieces) = all.split_at(blocks + 1);
            let mut sorted = pieces.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..(costs.len() * heads) as i32).collect::<Vec<_>>());

            let cost = |piece: &i32| costs[*piece as usize / heads];
            let busy: Vec<u64> = begins
                .windows(2)
                .map(|share| pieces[share[0] as usize..share[1] as usize].iter().map(cost).sum())
                .collect();
            let average = costs.iter().sum::<u64>() * heads as u64 / blocks as u64;
            assert!(busy.iter().all(|busy| *busy <= average + costs[0]), "{busy:?}");
            assert_eq!(begins[blocks] as usize, pieces.len());
        }
    }

    #[test]
    fn a_block_may_have_nothing_to_do() {
        assert_eq!(share_out(&[5], 1, 3), [0, 1, 1, 1, 0]);
        assert_eq!(share_out(&[], 4, 2), [0, 0, 0]);
    }
}
