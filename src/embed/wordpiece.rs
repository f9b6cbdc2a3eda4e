//! A short way through WordPiece for ASCII words. BERT's normaliser and pre-tokeniser treat the stretches between blanks alone, so
//! a text can be cut there; a stretch of ASCII letters needs no Unicode tables, and its pieces are found by hash look-ups. Every
//! other stretch goes to the `tokenizers` crate, which is also the oracle of the tests. Reading stops once enough tokens are
//! found, so a long document costs no more than what is kept of it.

use std::collections::HashMap;

use tokenizers::Tokenizer;
use tokenizers::models::ModelWrapper;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;

/// The tables of a WordPiece tokenizer with BERT's normaliser and pre-tokeniser.
#[derive(Debug)]
pub(super) struct WordPiece {
    /// The vocabulary as it is: pieces that start a word.
    first: HashMap<Box<[u8]>, u32>,
    /// Pieces that continue a word, without their prefix (`##`).
    rest: HashMap<Box<[u8]>, u32>,
    unknown: u32,
    max_word: usize,
    lowercase: bool,
    /// Tokens that are found in the raw text before it is normalised.
    added: Vec<Box<[u8]>>,
    /// Their first bytes, each once.
    added_starts: Vec<u8>,
}

impl WordPiece {
    /// The tables, or `None` where the tokenizer is of another kind or has an option for which texts cannot be cut at blanks.
    pub(super) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let Some(NormalizerWrapper::BertNormalizer(normalizer)) = tokenizer.get_normalizer() else { return None };
        let Some(PreTokenizerWrapper::BertPreTokenizer(_)) = tokenizer.get_pre_tokenizer() else { return None };
        let ModelWrapper::WordPiece(model) = tokenizer.get_model() else { return None };
        let added = tokenizer.get_added_tokens_decoder();
        let added = added.values().map(|token| {
            let plain = !(token.normalized || token.single_word || token.lstrip || token.rstrip);
            let plain = plain && !token.content.is_empty() && !token.content.contains(char::is_whitespace);
            plain.then(|| token.content.as_bytes().into())
        });
        let mut added: Vec<Box<[u8]>> = added.collect::<Option<_>>()?;
        added.sort_unstable();
        let mut added_starts: Vec<u8> = added.iter().filter_map(|token| token.first().copied()).collect();
        added_starts.dedup();
        let vocabulary = tokenizer.get_vocab(false);
        let unknown = *vocabulary.get(&model.unk_token)?;
        let entries = || vocabulary.iter().map(|(piece, id)| (piece.as_str(), *id));
        let first = entries().map(|(piece, id)| (piece.as_bytes().into(), id)).collect();
        let prefix = model.continuing_subword_prefix.as_str();
        let rest = entries().filter_map(|(piece, id)| Some((piece.strip_prefix(prefix)?.as_bytes().into(), id))).collect();
        normalizer.clean_text.then_some(Self {
            first,
            rest,
            unknown,
            max_word: model.max_input_chars_per_word,
            lowercase: normalizer.lowercase,
            added,
            added_starts,
        })
    }

    /// Appends the tokens of `text` to `out` until it has more than `limit`; `slow` tokenises one stretch by the reference way.
    pub(super) fn encode<E>(
        &self,
        text: &str,
        limit: usize,
        out: &mut Vec<u32>,
        mut slow: impl FnMut(&str, &mut Vec<u32>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut word = Vec::with_capacity(64);
        // The other blanks of Unicode are either control characters, which are removed, or not ASCII: `slow` cuts there.
        for stretch in text.split([' ', '\t', '\n', '\r']).filter(|stretch| !stretch.is_empty()) {
            if out.len() > limit {
                break;
            }
            if stretch.is_ascii() && !self.has_added(stretch.as_bytes()) {
                self.ascii(stretch.as_bytes(), &mut word, out);
            } else {
                slow(stretch, out)?;
            }
        }
        Ok(())
    }

    fn has_added(&self, stretch: &[u8]) -> bool {
        // Most stretches have no byte with which such a token starts.
        stretch.iter().any(|byte| self.added_starts.contains(byte))
            && self.added.iter().any(|token| stretch.len() >= token.len() && stretch.windows(token.len()).any(|window| window == &**token))
    }

    /// One stretch without blanks: control characters vanish, punctuation stands alone, all else makes words.
    fn ascii(&self, stretch: &[u8], word: &mut Vec<u8>, out: &mut Vec<u32>) {
        word.clear();
        for byte in stretch {
            if byte.is_ascii_control() {
                continue;
            }
            if byte.is_ascii_punctuation() {
                self.word(word, out);
                self.word(&[*byte], out);
                word.clear();
            } else {
                word.push(if self.lowercase { byte.to_ascii_lowercase() } else { *byte });
            }
        }
        self.word(word, out);
    }

    /// The longest piece first, again and again; one unknown token for a word that cannot be made of pieces (Wu et al. 2016,
    /// section 4.1, as BERT has it).
    fn word(&self, word: &[u8], out: &mut Vec<u32>) {
        if word.is_empty() {
            return;
        }
        if word.len() > self.max_word {
            out.push(self.unknown);
            return;
        }
        let start = out.len();
        let mut left = word;
        while !left.is_empty() {
            let pieces = if left.len() == word.len() { &self.first } else { &self.rest };
            let found = (1..=left.len()).rev().find_map(|end| {
                let (piece, after) = left.split_at_checked(end)?;
                pieces.get(piece).map(|id| (*id, after))
            });
            let Some((id, after)) = found else {
                out.truncate(start);
                out.push(self.unknown);
                return;
            };
            out.push(id);
            left = after;
        }
    }
}
