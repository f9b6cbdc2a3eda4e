//! Texts into token ids. What a tokenizer file says about truncation and padding is overridden: texts are cut on the right to
//! `max_tokens`, special tokens included, and batches are padded when they are made.

use std::ops::Range;

use rayon::prelude::*;
use tokenizers::Tokenizer;

use super::wordpiece::WordPiece;
use crate::error::{Context, Error, Kind, Result};

/// Tokens beyond the ones kept that a cut text must have, so that the cut changed none of those kept.
const MARGIN: usize = 16;

/// The tokens of one text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tokens {
    /// Token ids, special tokens included; empty where the text has no token of its own.
    pub ids: Vec<u32>,
    /// Was the text cut?
    pub truncated: bool,
}

/// A tokenizer made ready for one model.
#[derive(Debug)]
pub struct Tokeniser {
    inner: Tokenizer,
    fast: Option<WordPiece>,
    /// Special tokens before and after every text.
    before: Vec<u32>,
    after: Vec<u32>,
    /// The most tokens of a text itself.
    limit: usize,
    padding: i64,
    highest: i64,
}

impl Tokeniser {
    /// Reads a `tokenizer.json`. `max_tokens` counts special tokens, which are added if `special`.
    ///
    /// # Errors
    /// [`Kind::Model`]: not a tokenizer file, or one whose special tokens are not simply put before and after a text.
    /// [`Kind::Usage`]: `max_tokens` leaves no room for a token of the text.
    pub fn new(json: &[u8], max_tokens: usize, special: bool) -> Result<Self> {
        let mut inner = Tokenizer::from_bytes(json).map_err(|error| {
            Error::model("not a tokenizer file")
                .caused_by(error)
                .hint("`tokenizer` must name a tokenizer.json as the Hugging Face tokenizers library writes it")
        })?;
        let named = ["[PAD]", "<pad>", "<|padding|>"].iter().find_map(|name| inner.token_to_id(name));
        let padding = inner.get_padding().map(|padding| padding.pad_id).or(named).unwrap_or(0);
        inner.with_padding(None);
        inner.with_truncation(None).context(Kind::Model, || "cannot set up the tokenizer".into())?;
        let (before, after) = if special { special_tokens(&inner)? } else { (Vec::new(), Vec::new()) };
        let added = before.len() + after.len();
        let limit = max_tokens.checked_sub(added).filter(|limit| *limit > 0).ok_or_else(|| {
            Error::usage(format!("max_tokens leaves no room for a text max_tokens=`{max_tokens}` special_tokens=`{added}`"))
                .hint(format!("use at least {}", added + 1))
        })?;
        let highest = inner.get_vocab(true).into_values().max().map_or(0, i64::from);
        Ok(Self { fast: WordPiece::of(&inner), inner, before, after, limit, padding: i64::from(padding), highest })
    }

    /// The id that fills up the shorter rows of a batch.
    #[must_use]
    pub fn padding(&self) -> i64 {
        self.padding
    }

    /// The highest id that a text can have.
    #[must_use]
    pub fn highest_id(&self) -> i64 {
        self.highest
    }

    /// How many special tokens a text gets.
    #[must_use]
    pub fn special(&self) -> usize {
        self.before.len() + self.after.len()
    }

    /// The ids of a part of a text, as if it were a text of its own. `own` counts the text's tokens without the special ones.
    pub(super) fn part<'a>(&'a self, tokens: &'a Tokens, own: &Range<usize>) -> impl Iterator<Item = u32> {
        let (start, end) = (self.before.len() + own.start, self.before.len() + own.end);
        self.before.iter().chain(tokens.ids.get(start..end).unwrap_or_default()).chain(&self.after).copied()
    }

    /// Tokenises one text.
    ///
    /// # Errors
    /// [`Kind::Model`]: the tokenizer cannot encode the text (it has no unknown token, say).
    pub fn encode(&self, text: &str) -> Result<Tokens> {
        // Room for a token in four bytes: seldom too little, never much.
        let mut ids = Vec::with_capacity(self.before.len() + self.limit.min(text.len() / 4) + self.after.len() + 1);
        ids.extend(&self.before);
        match &self.fast {
            Some(fast) => fast.encode(text, self.before.len() + self.limit, &mut ids, |part, ids| self.whole(part, ids))?,
            None => self.prefix(text, &mut ids)?,
        }
        let own = ids.len() - self.before.len();
        if own == 0 {
            return Ok(Tokens::default());
        }
        ids.truncate(self.before.len() + self.limit);
        ids.extend(&self.after);
        Ok(Tokens { ids, truncated: own > self.limit })
    }

    /// Tokenises the texts of a window on the threads of rayon's pool; null stays null.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_all(&self, texts: &[Option<String>]) -> Result<Vec<Option<Tokens>>> {
        let encode = |text: &Option<String>| text.as_deref().map(|text| self.encode(text)).transpose();
        // Each thread writes its results where they belong; collecting into a `Result` at once would gather lists of them.
        let made: Vec<Result<Option<Tokens>>> = texts.par_iter().with_min_len(16).map(encode).collect();
        made.into_iter().collect()
    }

    /// Appends the tokens of as much of the text as settles the first `limit`: a tokenizer takes far more memory than its text.
    fn prefix(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let start = ids.len();
        let mut end = 64 + self.limit * 16;
        loop {
            let part = text.get(..text.floor_char_boundary(end)).unwrap_or(text);
            ids.truncate(start);
            self.whole(part, ids)?;
            if part.len() == text.len() || ids.len() >= start + self.limit + MARGIN {
                return Ok(());
            }
            end *= 4;
        }
    }

    /// Appends all tokens of a text by the `tokenizers` crate.
    fn whole(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let encoding = self.inner.encode_fast(text, false).context(Kind::Model, || "cannot tokenise a text".into())?;
        ids.extend(encoding.get_ids());
        Ok(())
    }
}

/// What the tokenizer puts before and after a text, found by encoding two texts with and without it.
fn special_tokens(tokenizer: &Tokenizer) -> Result<(Vec<u32>, Vec<u32>)> {
    let around = |text: &str| -> Result<Option<(Vec<u32>, Vec<u32>)>> {
        let encode = |special| tokenizer.encode_fast(text, special).context(Kind::Model, || "cannot tokenise a text".into());
        let (bare, full) = (encode(false)?, encode(true)?);
        let (bare, full) = (bare.get_ids(), full.get_ids());
        let at = (0..=full.len().saturating_sub(bare.len())).find(|at| full.get(*at..).is_some_and(|left| left.starts_with(bare)));
        Ok(at.map(|at| (full.iter().take(at).copied().collect(), full.iter().skip(at + bare.len()).copied().collect())))
    };
    match (around("one word")?, around("seven, other words")?) {
        (Some(one), Some(other)) if one == other => Ok(one),
        _ => Err(Error::model("the tokenizer's special tokens do not stand before and after a text")
            .hint("use the tokenizer.json of an embedding model with a template for single texts")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embed::chunk::{Chunking, Cutter};
    use crate::embed::model::ModelFiles;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    fn tokeniser(max_tokens: usize, special: bool) -> Tokeniser {
        Tokeniser::new(ModelFiles::builtin().tokenizer(), max_tokens, special).unwrap()
    }

    /// The obvious way: the whole text through the library, its own truncation and template.
    fn oracle(tokeniser: &Tokeniser, text: &str, max_tokens: usize, special: bool) -> Vec<u32> {
        let mut inner = tokeniser.inner.clone();
        let truncation = tokenizers::TruncationParams { max_length: max_tokens, ..Default::default() };
        inner.with_truncation(Some(truncation)).unwrap();
        let encoding = inner.encode(text, special).unwrap();
        let own = inner.encode(text, false).unwrap();
        if own.get_ids().is_empty() { Vec::new() } else { encoding.get_ids().to_vec() }
    }

    #[test]
    fn the_built_in_tokenizer_takes_the_short_way() {
        assert!(tokeniser(256, false).fast.is_some());
    }

    #[test]
    fn hard_texts_agree_with_the_library() {
        let long = "word ".repeat(400);
        let blob = "x".repeat(101);
        let texts = [
            "",
            " \t\r\n ",
            "Hello, World! It's 3.14\u{b0}C (caf\u{e9}) -- na\u{ef}ve",
            "\u{4e2d}\u{6587} mixed with English \u{65e5}\u{672c}\u{8a9e}",
            "control\u{0}\u{1}\u{7f}chars \u{b}vertical\u{c}form\u{85}next\u{a0}hard\u{2003}em\u{3000}wide",
            "[CLS] in the text [SEP][MASK]x[UNK] [cls]",
            "unaffable antidisestablishmentarianism supercalifragilistic qzxjkvw",
            "e\u{301}toile \u{301}start I\u{307}stanbul \u{1e9e} \u{df} \u{fb01}ne",
            "emoji \u{1f600}\u{200d}\u{1f4bb} zero\u{200b}width soft\u{ad}hyphen \u{fffd}",
            &long,
            &blob,
            &blob[1..],
        ];
        for special in [true, false] {
            for max_tokens in [3, 8, 256] {
                let tokeniser = tokeniser(max_tokens, special);
                for text in texts {
                    assert_eq!(tokeniser.encode(text).unwrap().ids, oracle(&tokeniser, text, max_tokens, special), "{text:?} {max_tokens}");
                }
            }
        }
    }

    /// The library cuts long texts by itself; the built-in tokenizer has a template for single texts, as BERT has it.
    #[test]
    fn parts_are_the_windows_of_the_library() {
        let text = "unaffable words, and some more of them; ".repeat(9);
        let (tokens, overlap) = (16, 5);
        let long = tokeniser(4_096, true);
        let encoded = long.encode(&text).unwrap();
        let own = encoded.ids.len() - long.special();
        let cutter = Cutter::new(Some(Chunking { tokens, overlap }), long.special()).unwrap();
        let found: Vec<Vec<u32>> = cutter.cut(own).map(|range| long.part(&encoded, &range).collect()).collect();

        let mut inner = long.inner.clone();
        let truncation = tokenizers::TruncationParams { max_length: tokens, stride: overlap, ..Default::default() };
        inner.with_truncation(Some(truncation)).unwrap();
        let whole = inner.encode(text.as_str(), true).unwrap();
        let expected: Vec<Vec<u32>> = std::iter::once(&whole).chain(whole.get_overflowing()).map(|part| part.get_ids().to_vec()).collect();
        assert_eq!(found, expected);
        assert!(found.len() > 8);
    }

    #[test]
    fn cutting_is_told() {
        let tokeniser = tokeniser(4, false);
        assert!(!tokeniser.encode("a b c d").unwrap().truncated);
        let cut = tokeniser.encode("a b c d e").unwrap();
        assert_eq!((cut.ids.len(), cut.truncated), (4, true));
    }

    #[test]
    fn texts_without_tokens_get_no_special_tokens() {
        let texts = [None, Some(String::new()), Some(" \n".into()), Some("a".into())];
        for special in [true, false] {
            let tokens = tokeniser(16, special).encode_all(&texts).unwrap();
            assert_eq!(
                tokens.iter().map(|tokens| tokens.as_ref().map_or(9, |tokens| tokens.ids.len().min(1))).collect::<Vec<_>>(),
                [9, 0, 0, 1]
            );
        }
    }

    #[test]
    fn other_tokenizers_take_the_long_way_and_stop_early() {
        let json = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
            "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,"decoder":null,
            "model":{"type":"WordLevel","vocab":{"a":0,"b":1,"?":2},"unk_token":"?"}}"#;
        let tokeniser = Tokeniser::new(json.as_bytes(), 5, true).unwrap();
        assert!(tokeniser.fast.is_none());
        for text in ["a b ? c", "", "a b a b a b a b", &"  ".repeat(5_000), &format!("{}a b", " ".repeat(9_000)), &"a b c ".repeat(9_000)] {
            let tokens = tokeniser.encode(text).unwrap();
            assert_eq!(tokens.ids, oracle(&tokeniser, text, 5, true), "{}", text.len());
        }
    }

    #[test]
    fn bad_files_and_limits_are_refused() {
        let error = Tokeniser::new(b"{}", 16, true).unwrap_err();
        assert_eq!((error.kind(), error.to_string()), (Kind::Model, "not a tokenizer file".into()));
        let error = Tokeniser::new(ModelFiles::builtin().tokenizer(), 0, false).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
    }

    static SHORT: LazyLock<Tokeniser> = LazyLock::new(|| tokeniser(14, true));

    proptest! {
        #[test]
        fn any_text_agrees_with_the_library(text in r"(\PC|[ \n\tA-Za-z0-9.,'\[\]#-]|\[SEP\]){0,60}") {
            prop_assert_eq!(SHORT.encode(&text).unwrap().ids, oracle(&SHORT, &text, 14, true));
        }

        #[test]
        fn ascii_agrees_with_the_library(text in r"[\x00-\x7f]{0,80}") {
            prop_assert_eq!(SHORT.encode(&text).unwrap().ids, oracle(&SHORT, &text, 14, true));
        }
    }
}
