//! What ranks compare, how steps are shared out, how views are parted, and the group of one.

use microseq_core::{
    Agreement, Alone, Attention, Call, Collective, DType, Field, Host, KvMut, KvParts, Layout, Operand, Plan,
    Ranks, RanksError, RowsMut, Run, Runs, ShapeError, StepError, ViewError, bf16,
};

const LENGTHS: [u32; 5] = [4, 1, 0, 10, 17];

fn plan() -> Plan<'static> {
    Plan::new(&LENGTHS, 10).unwrap()
}

fn attention() -> Attention {
    Attention::new(4, 2, 8).unwrap()
}

/// Packed rows of a step, over memory for all of them.
fn packed(memory: &mut [f32], rows: usize) -> KvMut<'_, Host, f32> {
    KvMut::packed(RowsMut::of_slice(memory, attention().kv_layout(rows)).unwrap()).unwrap()
}

#[test]
fn shares_of_what_a_step_writes_are_those_of_the_step() {
    for step in plan().steps() {
        for ranks in 1..13 {
            let mut end = step.write().start;
            for rank in 0..ranks {
                let rows = step.write_share(rank, ranks).unwrap();
                let share = step.share(rank, ranks).unwrap();
                assert_eq!(rows, share.rows(), "rank {rank} of {ranks}");
                assert_eq!(share.write_share(rank, ranks), Ok(rows.clone()), "a share stands for its step");
                assert_eq!(rows.start, end);
                end = rows.end;
            }
            assert_eq!(end, step.write().end);
        }
    }
    let step = plan().steps().next().unwrap();
    assert_eq!(step.write_share(0, 0), Err(StepError::ZeroRanks));
    assert_eq!(step.write_share(3, 3), Err(StepError::RankOutOfRange { rank: 3, ranks: 3 }));
}

#[test]
fn calls_survive_being_told() {
    let step = plan().steps().nth(2).unwrap();
    let mut memory = vec![0.0; 10 * 4 * 8];
    let reduce = Call::reduce(7, &step, &packed(&mut memory, 10)).unwrap().numbered(12);
    assert_eq!(Call::from_words(&reduce.words()), Some(reduce));
    assert_eq!(
        reduce,
        Call {
            collective: Collective::Reduce,
            number: 12,
            layer: 7,
            step: 2,
            begin: 20,
            end: 30,
            kv_heads: 2,
            head_dim: 8,
            dtype: DType::F32,
        }
    );
    let mut half = vec![bf16::ZERO; 10 * 4 * 8];
    let rows = RowsMut::<Host, _>::of_slice(&mut half, attention().kv_layout(10)).unwrap();
    let gather = Call::gather(7, &step, &KvMut::packed(rows).unwrap()).unwrap();
    assert_eq!(Call::from_words(&gather.words()), Some(gather));
    assert_eq!(gather.dtype, DType::Bf16);
}

#[test]
fn calls_that_differ_in_anything_are_told_apart() {
    let step = plan().steps().next().unwrap();
    let mut memory = vec![0.0; 10 * 4 * 8];
    let here = Call::gather(1, &step, &packed(&mut memory, 10)).unwrap();
    assert_eq!(here.compare(3, &here.words()), Ok(()));
    for word in 2..Call::WORDS - 1 {
        let mut words = here.words();
        words[word] += 1;
        let there = Call::from_words(&words).unwrap();
        assert_eq!(here.compare(3, &words), Err(RanksError::OtherCall { rank: 3, there, here }));
    }
    for (word, value) in [(0, 5), (1, 2), (Call::WORDS - 1, 3)] {
        let mut words = here.words();
        words[word] = value;
        assert_eq!(here.compare(3, &words), Err(RanksError::Garbled { rank: 3 }));
    }
    let message = here.compare(3, &here.numbered(9).words()).unwrap_err().to_string();
    assert_eq!(
        message,
        "rank 3 disagrees: it is at the gather of step 0, layer 1 (rows 0..10, 2 K/V heads of 8 in f32, collective 9), this rank at the gather of step 0, layer 1 (rows 0..10, 2 K/V heads of 8 in f32, collective 0)"
    );
}

#[test]
fn agreements_name_the_first_difference() {
    let here = Agreement::new(&plan(), &attention(), DType::F32, 4);
    assert_eq!(here.ranks(), 4);
    assert_eq!(here.compare(1, here.words()), Ok(()));
    let other = |lengths: &[u32], rows, attention: Attention, dtype, ranks| {
        Agreement::new(&Plan::new(lengths, rows).unwrap(), &attention, dtype, ranks)
    };
    let plain = attention();
    let window = |window| plain.with_window(window).unwrap();
    let others = [
        (Field::Ranks, other(&LENGTHS, 10, plain, DType::F32, 3)),
        (Field::Tokens, other(&[4, 1, 0, 10, 18], 10, plain, DType::F32, 4)),
        (Field::MicroSequenceLength, other(&LENGTHS, 16, plain, DType::F32, 4)),
        (Field::Documents, other(&[4, 1, 10, 17], 10, plain, DType::F32, 4)),
        (Field::Lengths, other(&[4, 1, 0, 17, 10], 10, plain, DType::F32, 4)),
        (Field::Lengths, other(&[1, 4, 0, 10, 17], 10, plain, DType::F32, 4)),
        (Field::DType, other(&LENGTHS, 10, plain, DType::F16, 4)),
        (Field::Heads, other(&LENGTHS, 10, Attention::new(8, 2, 8).unwrap(), DType::F32, 4)),
        (Field::KvHeads, other(&LENGTHS, 10, Attention::new(4, 4, 8).unwrap(), DType::F32, 4)),
        (Field::HeadDim, other(&LENGTHS, 10, Attention::new(4, 2, 16).unwrap(), DType::F32, 4)),
        (Field::Causal, other(&LENGTHS, 10, plain.non_causal(), DType::F32, 4)),
        (Field::Window, other(&LENGTHS, 10, window(5), DType::F32, 4)),
        (Field::Scale, other(&LENGTHS, 10, plain.with_scale(0.5).unwrap(), DType::F32, 4)),
        (Field::Softcap, other(&LENGTHS, 10, plain.with_softcap(5.0).unwrap(), DType::F32, 4)),
        (Field::Operators, here.and(&window(3))),
    ];
    for (expected, there) in others {
        match here.compare(2, there.words()) {
            Err(RanksError::Differs { rank: 2, field, there, here }) => {
                assert_eq!(field, expected);
                assert_ne!(there, here);
            }
            result => panic!("{expected:?}: {result:?}"),
        }
    }
    let message = |there: Agreement| here.compare(2, there.words()).unwrap_err().to_string();
    assert_eq!(message(others[6].1), "rank 2 disagrees: its dtype is f16, here it is f32");
    assert_eq!(message(others[12].1), "rank 2 disagrees: its scale is 0.5, here it is 0.35355338");
    assert_eq!(message(others[10].1), "rank 2 disagrees: its causal is false, here it is true");
    let (one, two) = (window(1), window(2));
    assert_ne!(here.and(&one).and(&two), here.and(&two).and(&one), "the order of operators counts");
}

#[test]
fn one_rank_moves_nothing() {
    let mut ranks = Alone::<Host>::new();
    assert_eq!((ranks.rank(), ranks.size()), (0, 1));
    let step = plan().steps().nth(1).unwrap();
    let values: Vec<f32> = (0..10 * 4 * 8).map(|n| n as f32).collect();
    let mut memory = values.clone();
    assert_eq!(ranks.gather(0, &step, packed(&mut memory, 10), || 5), Ok(5));
    assert_eq!(ranks.reduce(0, &step, packed(&mut memory, 10), || 6), Ok(6));
    assert_eq!(ranks.finish(), Ok(()));
    assert_eq!(memory, values);
}

#[test]
fn rows_that_do_not_fit_are_refused_before_the_work() {
    let mut ranks = Alone::<Host>::new();
    let step = plan().steps().next().unwrap();
    let mut memory = vec![0.0; 9 * 4 * 8];
    let expected = |operand| RanksError::Shape(ShapeError::Rows { operand, expected: 10, given: 9 });
    let gathered = ranks.gather(0, &step, packed(&mut memory, 9), || panic!("the work was done"));
    assert_eq!(gathered, Err::<(), _>(expected(Operand::K)));
    let reduced = ranks.reduce(0, &step, packed(&mut memory, 9), || panic!("the work was done"));
    assert_eq!(reduced, Err::<(), _>(expected(Operand::Dk)));
}

/// Packed keys and values over memory.
fn whole(memory: &mut [f32], layout: Layout) -> KvMut<'_, Host, f32> {
    KvMut::packed(RowsMut::of_slice(memory, layout).unwrap()).unwrap()
}

/// Writes each row's number into its keys and values.
fn number(view: &mut KvMut<'_, Host, f32>, from: usize) {
    let layout = view.k_layout();
    for row in 0..layout.rows() {
        for head in 0..layout.heads() {
            view.key_mut(row, head).fill((from + row) as f32);
            view.value_mut(row, head).fill((from + row) as f32 + 0.5);
        }
    }
}

#[test]
fn parts_of_a_view_are_its_rows() {
    const ROWS: usize = 7;
    let dense = Layout::dense(ROWS, 4, 3);
    let gaps = dense.with_offset(2).with_head_stride(5).with_row_stride(23);
    for layout in [dense, gaps] {
        for row in 0..=ROWS {
            let mut memory = vec![-1.0f32; 200];
            let (mut before, mut behind) = whole(&mut memory, layout).split(row).unwrap();
            assert_eq!((before.k_layout().rows(), behind.k_layout().rows()), (row, ROWS - row));
            number(&mut behind, row);
            number(&mut before, 0);
            let mut expected = vec![-1.0f32; 200];
            number(&mut whole(&mut expected, layout), 0);
            assert_eq!(memory, expected, "parted before row {row} of {layout:?}");
        }
    }
}

#[test]
fn separate_keys_and_values_are_parted_alike() {
    let (mut k, mut v) = (vec![0.0f32; 40], vec![0.0f32; 60]);
    let (k_layout, v_layout) = (Layout::dense(5, 2, 4), Layout::dense(5, 2, 4).with_row_stride(11));
    let rows = |memory, layout| RowsMut::<Host, f32>::of_slice(memory, layout).unwrap();
    let kv = KvMut::separate(rows(&mut k[..], k_layout), rows(&mut v[..], v_layout)).unwrap();
    let (mut before, mut behind) = kv.split(2).unwrap();
    number(&mut behind, 2);
    number(&mut before, 0);
    assert!(matches!(before.into_parts(), KvParts::Separate { .. }));
    assert_eq!((k[15], k[16], v[21], v[22]), (1.0, 2.0, 0.0, 2.5));
}

#[test]
fn rows_that_interleave_are_not_parted() {
    let heads_of_rows = Layout::dense(6, 4, 3).with_row_stride(3).with_head_stride(18);
    let mut memory = vec![0.0f32; 72];
    let error = ViewError::Interleaved { row: 2, row_stride: 3, head_stride: 18 };
    assert_eq!(whole(&mut memory, heads_of_rows).split(2).err(), Some(error));
    let error = ViewError::Rows { begin: 0, end: 7, rows: 6 };
    assert_eq!(whole(&mut memory, heads_of_rows).split(7).err(), Some(error));
    // All or nothing is no parting.
    for row in [0, 6] {
        let (before, behind) = whole(&mut memory, heads_of_rows).split(row).unwrap();
        assert_eq!((before.k_layout().rows(), behind.k_layout().rows()), (row, 6 - row));
    }
}

#[test]
fn views_without_rows_are_parted_anywhere_in_memory() {
    let mut memory = vec![0.0f32; 16];
    let whole = RowsMut::<Host, f32>::of_slice(&mut memory, Layout::dense(2, 2, 4)).unwrap();
    let none = whole.narrow(2..2).unwrap();
    let (before, behind) = none.split(0).unwrap();
    assert_eq!((before.layout().rows(), behind.layout().rows()), (0, 0));
}

#[test]
fn dense_rows_are_runs() {
    let mut memory = vec![0.0f32; 200];
    let view = KvMut::packed(RowsMut::<Host, f32>::of_slice(&mut memory, Layout::dense(5, 4, 3)).unwrap());
    match Runs::of(view.unwrap().narrow(1..4).unwrap()) {
        Ok(Runs::One(_, run)) => assert_eq!(run, Run { offset: 12, row: 12, rows: 3 }),
        _ => panic!("packed rows are one run"),
    }
    let (mut k, mut v) = (vec![0.0f32; 30], vec![0.0f32; 40]);
    let layout = Layout::dense(5, 2, 3);
    let rows = |memory, layout| RowsMut::<Host, f32>::of_slice(memory, layout).unwrap();
    let kv = KvMut::separate(rows(&mut k[..], layout), rows(&mut v[..], layout.with_offset(7))).unwrap();
    match Runs::of(kv.narrow(2..5).unwrap()) {
        Ok(Runs::Two([(_, k), (_, v)])) => {
            assert_eq!(k, Run { offset: 12, row: 6, rows: 3 });
            assert_eq!(v, Run { offset: 19, row: 6, rows: 3 });
        }
        _ => panic!("separate rows are two runs"),
    }
}

#[test]
fn rows_with_gaps_are_no_runs() {
    let dense = Layout::dense(5, 4, 3);
    let gaps = [
        ("rows apart", dense.with_row_stride(13)),
        ("heads apart", dense.with_head_stride(4).with_row_stride(16)),
        ("heads of rows", dense.with_row_stride(3).with_head_stride(15)),
    ];
    for (what, layout) in gaps {
        let mut memory = vec![0.0f32; 200];
        let view = KvMut::packed(RowsMut::<Host, f32>::of_slice(&mut memory, layout).unwrap()).unwrap();
        match Runs::of(view) {
            Err(RanksError::NotDense { rows: 5, heads: 2, head_dim: 3, row_stride, .. }) => {
                assert_eq!(row_stride, layout.row_stride(), "{what}");
            }
            other => panic!("{what}: {:?}", other.err()),
        }
    }
    // One head of keys, one of values, a gap between.
    let layout = Layout::dense(5, 2, 3).with_head_stride(4).with_row_stride(6);
    let mut memory = vec![0.0f32; 200];
    let one = RowsMut::<Host, f32>::of_slice(&mut memory, layout.with_row_stride(8)).unwrap();
    let one = KvMut::packed(one.narrow(0..1).unwrap()).unwrap();
    assert!(matches!(Runs::of(one), Err(RanksError::NotDense { operand: Operand::V, .. })));
}
