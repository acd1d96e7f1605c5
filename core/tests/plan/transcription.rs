//! The definition of a step, token by token: slow, and written to be read beside the design.

use microseq_core::{Mask, Step};
use std::ops::Range;

/// A packed sequence, a document number per row.
pub(crate) struct Rows {
    /// For each row, its document, counted from 0; none for padding.
    documents: Vec<Option<usize>>,
    /// Where each document begins.
    begins: Vec<usize>,
    /// Where each document ends.
    ends: Vec<usize>,
}

/// What a step, or a rank's share of one, is.
#[derive(Debug, PartialEq, serde::Deserialize)]
pub(crate) struct Description {
    pub(crate) begin: usize,
    pub(crate) end: usize,
    pub(crate) first_document_begin: usize,
    pub(crate) cu_seqlens_q: Vec<i32>,
    pub(crate) cu_seqlens_k: Vec<i32>,
    pub(crate) max_seqlen_q: usize,
    pub(crate) max_seqlen_k: usize,
    pub(crate) min_seqlen_q: usize,
    pub(crate) min_seqlen_k: usize,
    pub(crate) document_index_q: Vec<u32>,
    pub(crate) document_index_k: Vec<u32>,
    pub(crate) position_index: Vec<u32>,
}

impl Rows {
    pub(crate) fn new(lengths: &[u32], tokens: usize) -> Self {
        let (mut documents, mut begins, mut ends) = (vec![], vec![], vec![]);
        for (document, &length) in lengths.iter().enumerate() {
            begins.push(documents.len());
            documents.extend((0..length).map(|_| Some(document)));
            ends.push(documents.len());
        }
        documents.resize(tokens, None);
        Self { documents, begins, ends }
    }

    /// The documents with rows in a range, in order.
    pub(crate) fn documents(&self, rows: Range<usize>) -> Vec<usize> {
        let mut documents: Vec<usize> = self.documents[rows].iter().flatten().copied().collect();
        documents.dedup();
        documents
    }

    pub(crate) fn first_document_begin(&self, rows: Range<usize>) -> usize {
        self.documents(rows.clone()).first().map_or(rows.start, |&document| self.begins[document])
    }

    pub(crate) fn describe(&self, rows: Range<usize>) -> Description {
        let (begin, end) = (rows.start, rows.end);
        let first_document_begin = self.first_document_begin(rows.clone());
        let documents = self.documents(rows.clone());
        let length = |document: usize, within: Range<usize>| {
            self.documents[within].iter().filter(|&&d| d == Some(document)).count()
        };
        let q_lens: Vec<_> = documents.iter().map(|&d| length(d, rows.clone())).collect();
        let k_lens: Vec<_> = documents.iter().map(|&d| length(d, first_document_begin..end)).collect();

        let mut cu_seqlens_q = vec![0];
        for &length in &q_lens {
            cu_seqlens_q.push(cu_seqlens_q[cu_seqlens_q.len() - 1] + length as i32);
        }
        // Only the first document can have more keys than queries.
        let past = (begin - first_document_begin) as i32;
        let cu_seqlens_k =
            cu_seqlens_q.iter().enumerate().map(|(j, &q)| if j == 0 { 0 } else { q + past }).collect();

        let index = |row: usize| {
            let place = |document| documents.iter().position(|&d| d == document).unwrap() as u32 + 1;
            self.documents[row].map_or(0, place)
        };
        let position = |row: usize| self.documents[row].map_or(0, |d| (row - self.begins[d]) as u32);
        let or_0 = |lengths: Option<&usize>| lengths.copied().unwrap_or(0);
        Description {
            begin,
            end,
            first_document_begin,
            cu_seqlens_q,
            cu_seqlens_k,
            max_seqlen_q: or_0(q_lens.iter().max()),
            max_seqlen_k: or_0(k_lens.iter().max()),
            min_seqlen_q: or_0(q_lens.iter().min()),
            min_seqlen_k: or_0(k_lens.iter().min()),
            document_index_q: rows.clone().map(index).collect(),
            document_index_k: (first_document_begin..end).map(index).collect(),
            position_index: rows.map(position).collect(),
        }
    }

    /// Visible pairs, one by one.
    pub(crate) fn pairs(&self, rows: Range<usize>, mask: Mask) -> u64 {
        let visible = |q: usize, k: usize| {
            let together = self.documents[q].is_some() && self.documents[q] == self.documents[k];
            let past = !mask.causal || k <= q;
            let near = mask.window.is_none_or(|window| k + window.get() > q);
            together && past && near
        };
        let window = self.first_document_begin(rows.clone())..rows.end;
        rows.flat_map(|q| window.clone().map(move |k| (q, k))).filter(|&(q, k)| visible(q, k)).count() as u64
    }

    /// The document that goes on behind the rows, with its end.
    pub(crate) fn unfinished(&self, rows: Range<usize>) -> Option<(usize, usize)> {
        let document = *self.documents(rows.clone()).last()?;
        (self.ends[document] > rows.end).then(|| (document, self.ends[document]))
    }

    /// The rows of a window that no query from row `later` on can see, counted from the window's begin.
    pub(crate) fn untouched(&self, window: Range<usize>, later: usize) -> Range<usize> {
        let touched = |&row: &usize| {
            let document = self.documents[row];
            document.is_some() && self.documents[later..].contains(&document)
        };
        window.start..window.clone().find(touched).unwrap_or(window.end)
    }
}

/// What the crate says of a step.
pub(crate) fn describe(step: &Step<'_>) -> Description {
    let (mut q, mut k) = (vec![-1; step.documents() + 1], vec![-1; step.documents() + 1]);
    step.cu_seqlens(&mut q, &mut k).unwrap();
    Description {
        begin: step.begin(),
        end: step.end(),
        first_document_begin: step.first_document_begin(),
        cu_seqlens_q: q,
        cu_seqlens_k: k,
        max_seqlen_q: step.max_seqlen_q(),
        max_seqlen_k: step.max_seqlen_k(),
        min_seqlen_q: step.min_seqlen_q(),
        min_seqlen_k: step.min_seqlen_k(),
        document_index_q: step.document_index_q().collect(),
        document_index_k: step.document_index_k().collect(),
        position_index: step.position_index().collect(),
    }
}
