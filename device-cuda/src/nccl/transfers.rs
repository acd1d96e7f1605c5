//! Which calls of NCCL a collective consists of: addresses and counts, nothing else.

use core::ops::Range;

/// A call of NCCL. Addresses are on the device, all in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transfer {
    /// Every rank's `bytes`, one behind the other; `send` is this rank's place among them.
    AllGather { send: u64, receive: u64, bytes: usize },
    /// `bytes` of rank `root`.
    Broadcast { at: u64, bytes: usize, root: usize },
    /// Sums of every rank's `elements`; `receive` is this rank's place among them.
    ReduceScatter { send: u64, receive: u64, elements: usize },
    /// Sums of `elements`, for rank `root`.
    Reduce { at: u64, elements: usize, root: usize },
}

/// Rows of a step, one behind the other on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    /// Address of the first.
    pub(crate) address: u64,
    /// Bytes of a row.
    pub(crate) bytes: usize,
}

/// How a step's rows are shared out: each rank's, counted from the step's first.
pub(crate) struct Shares {
    pub(crate) rank: usize,
    pub(crate) rows: Vec<Range<usize>>,
}

impl Shares {
    /// NCCL's own collectives take as many rows of each rank.
    fn are_equal(&self) -> bool {
        self.rows.windows(2).all(|pair| pair[0].len() == pair[1].len())
    }

    fn own(&self) -> Range<usize> {
        self.rows[self.rank].clone()
    }

    /// Ranks that have rows, and these.
    fn filled(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        self.rows.iter().cloned().enumerate().filter(|(_, rows)| !rows.is_empty())
    }
}

impl Rows {
    fn at(&self, row: usize) -> u64 {
        self.address.wrapping_add((row * self.bytes) as u64)
    }

    /// Fills in the other ranks' rows.
    pub(crate) fn gather(&self, shares: &Shares, into: &mut Vec<Transfer>) {
        if shares.are_equal() {
            let own = shares.own();
            let bytes = own.len() * self.bytes;
            into.push(Transfer::AllGather { send: self.at(own.start), receive: self.address, bytes });
            return;
        }
        into.extend(shares.filled().map(|(root, rows)| {
            let (at, bytes) = (self.at(rows.start), rows.len() * self.bytes);
            Transfer::Broadcast { at, bytes, root }
        }));
    }

    /// Sums up this rank's rows, of f32.
    pub(crate) fn reduce(&self, shares: &Shares, into: &mut Vec<Transfer>) {
        let elements = |rows: &Range<usize>| rows.len() * self.bytes / size_of::<f32>();
        if shares.are_equal() {
            let own = shares.own();
            let (receive, elements) = (self.at(own.start), elements(&own));
            into.push(Transfer::ReduceScatter { send: self.address, receive, elements });
            return;
        }
        into.extend(shares.filled().map(|(root, rows)| Transfer::Reduce {
            at: self.at(rows.start),
            elements: elements(&rows),
            root,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: u64 = 0x7000_0000_0000;

    fn shares(rank: usize, rows: &[Range<usize>]) -> Shares {
        Shares { rank, rows: rows.to_vec() }
    }

    fn calls(
        collective: fn(&Rows, &Shares, &mut Vec<Transfer>),
        bytes: usize,
        shares: &Shares,
    ) -> Vec<Transfer> {
        let mut calls = Vec::new();
        collective(&Rows { address: ADDRESS, bytes }, shares, &mut calls);
        calls
    }

    #[test]
    fn equal_shares_take_one_call_in_place() {
        for rank in 0..4 {
            let shares = shares(rank, &[0..3, 3..6, 6..9, 9..12]);
            let own = ADDRESS + 3 * 64 * rank as u64;
            let gather = Transfer::AllGather { send: own, receive: ADDRESS, bytes: 192 };
            assert_eq!(calls(Rows::gather, 64, &shares), [gather]);
            let reduce = Transfer::ReduceScatter { send: ADDRESS, receive: own, elements: 48 };
            assert_eq!(calls(Rows::reduce, 64, &shares), [reduce]);
        }
    }

    #[test]
    fn unequal_shares_take_a_call_for_each_rank_that_has_rows() {
        let shares = shares(1, &[0..0, 0..1, 1..1, 1..3]);
        assert_eq!(
            calls(Rows::gather, 16, &shares),
            [
                Transfer::Broadcast { at: ADDRESS, bytes: 16, root: 1 },
                Transfer::Broadcast { at: ADDRESS + 16, bytes: 32, root: 3 },
            ]
        );
        assert_eq!(
            calls(Rows::reduce, 16, &shares),
            [
                Transfer::Reduce { at: ADDRESS, elements: 4, root: 1 },
                Transfer::Reduce { at: ADDRESS + 16, elements: 8, root: 3 },
            ]
        );
    }

    #[test]
    fn many_rows_do_not_overflow() {
        let half = 1 << 30;
        let shares = shares(1, &[0..half, half..2 * half]);
        let [Transfer::AllGather { send, bytes, .. }] = calls(Rows::gather, 4096, &shares)[..] else {
            panic!("equal shares")
        };
        assert_eq!((send, bytes), (ADDRESS + (1 << 42), 1 << 42));
    }
}
