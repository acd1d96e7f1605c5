//! Slots of any strides, and what one rank costs.

use crate::group::{each_rank, join};
use microseq::{Agreement, Attention, Host, KvMut, Layout, Plan, Ranks, RowsMut, RowsRef};
use microseq::{DType, dev::Arrangement};

const ROWS: usize = 11;

fn attention() -> Attention {
    Attention::new(2, 2, 3).unwrap()
}

/// What element `n` of a row of a rank is.
fn value(row: usize, n: usize) -> f32 {
    (row * 100 + n) as f32
}

#[test]
fn rows_of_any_strides_are_moved() {
    for arrangement in Arrangement::ALL {
        for ranks in 1..=4 {
            each_rank(ranks, |seat| gather_and_reduce(seat, arrangement, ranks));
        }
    }
}

fn gather_and_reduce(seat: microseq::ranks::Seat, arrangement: Arrangement, ranks: usize) {
    let lengths = [ROWS as u32];
    let plan = Plan::new(&lengths, ROWS).unwrap();
    let step = plan.steps().next().unwrap();
    let rank = seat.rank();
    let mut group = join(seat, &Agreement::new(&plan, &attention(), DType::F32, ranks)).unwrap();
    let layout = arrangement.layout(ROWS, 4, 3);
    let own = step.write_share(rank, ranks).unwrap();

    let mut memory = vec![-1.0f32; 600];
    fill(&mut memory, layout, |row, n| if own.contains(&row) { value(row, n) } else { f32::NAN });
    let rows = KvMut::packed(RowsMut::<Host, f32>::of_slice(&mut memory, layout).unwrap()).unwrap();
    group.gather(0, &step, rows, || ()).unwrap();
    let mut expected = vec![-1.0f32; 600];
    fill(&mut expected, layout, value);
    assert_eq!(memory, expected, "{arrangement:?}, rank {rank} of {ranks}");

    let rows = KvMut::packed(RowsMut::<Host, f32>::of_slice(&mut memory, layout).unwrap()).unwrap();
    group.reduce(0, &step, rows, || ()).unwrap();
    let sums = RowsRef::<Host, f32>::of_slice(&memory, layout).unwrap();
    for row in own {
        for head in 0..4 {
            for (n, &sum) in sums.get(row, head).iter().enumerate() {
                assert_eq!(sum, ranks as f32 * value(row, 3 * head + n), "{arrangement:?}, row {row}");
            }
        }
    }
}

fn fill(memory: &mut [f32], layout: Layout, value: impl Fn(usize, usize) -> f32) {
    let mut rows = RowsMut::<Host, f32>::of_slice(memory, layout).unwrap();
    for row in 0..ROWS {
        for head in 0..4 {
            let elements = rows.get_mut(row, head).iter_mut().enumerate();
            elements.for_each(|(n, element)| *element = value(row, 3 * head + n));
        }
    }
}

/// Rank 1's gather is over while rank 0 still does something else: rows travel meanwhile.
#[test]
fn rows_travel_meanwhile() {
    let (over, heard) = std::sync::mpsc::channel();
    let heard = std::sync::Mutex::new(heard);
    each_rank(2, |seat| {
        let (plan, rank) = (Plan::new(&[2], 2).unwrap(), seat.rank());
        let step = plan.steps().next().unwrap();
        let mut group = join(seat, &Agreement::new(&plan, &attention(), DType::F32, 2)).unwrap();
        let mut memory = vec![1.0f32; 2 * attention().kv_layout(2).row_stride()];
        let rows = RowsMut::<Host, f32>::of_slice(&mut memory, attention().kv_layout(2)).unwrap();
        let other_work = || {
            if rank == 0 {
                heard.lock().unwrap().recv().unwrap()
            }
        };
        group.gather(0, &step, KvMut::packed(rows).unwrap(), other_work).unwrap();
        if rank == 1 {
            over.send(()).unwrap();
        }
    });
}

/// Sums go in the order of the ranks, whatever rank they are for: 1e8 + 1 - 1e8 is 0 in f32, in
/// another order it is 1.
#[test]
fn sums_are_taken_in_rank_order() {
    let parts = [1e8f32, 1.0, -1e8];
    let sums = each_rank(3, |seat| {
        let plan = Plan::new(&[3], 3).unwrap();
        let step = plan.steps().next().unwrap();
        let rank = seat.rank();
        let agreement = Agreement::new(&plan, &attention(), DType::F32, 3);
        let mut group = join(seat, &agreement).unwrap();
        let layout = attention().kv_layout(3);
        let mut memory = vec![parts[rank]; 3 * layout.row_stride()];
        let rows = KvMut::packed(RowsMut::<Host, f32>::of_slice(&mut memory, layout).unwrap()).unwrap();
        group.reduce(0, &step, rows, || ()).unwrap();
        memory[rank * layout.row_stride()]
    });
    assert_eq!(sums, [0.0; 3]);
    assert_eq!(parts[0] + parts[2] + parts[1], 1.0, "the order can be seen");
}
