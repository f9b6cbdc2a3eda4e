//! Where two texts differ, word by word: the longest common subsequence of their words (Wagner and Fischer 1974). Texts are
//! clipped before they come here, so that the table stays small.

use std::fmt::Write as _;

use super::excerpt::printable;

/// Cells of the table at most; what would need more is shown as wholly different.
const MAX_CELLS: usize = 1 << 24;
/// Words shown on each side of a difference; longer stretches that both texts have are left out between.
const CONTEXT: usize = 12;
/// Words shown of texts that are equal.
const EQUAL_WORDS: usize = 60;

/// Which of two texts has a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Both.
    Both,
    /// Only the first.
    First,
    /// Only the second.
    Second,
}

/// Words that stand one after the other and are on the same side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stretch<'a> {
    /// Where they are.
    pub side: Side,
    words: Vec<Word<'a>>,
}

/// A word, and whether white space stands before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Word<'a> {
    text: &'a str,
    spaced: bool,
}

impl Stretch<'_> {
    /// The words, white space between them made one space each.
    pub(crate) fn text(&self) -> String {
        joined(&self.words)
    }
}

fn joined(words: &[Word<'_>]) -> String {
    let mut text = String::new();
    for (index, word) in words.iter().enumerate() {
        if word.spaced && index > 0 {
            text.push(' ');
        }
        text.push_str(word.text);
    }
    text
}

/// Scripts that are written without spaces: each letter counts as a word.
fn stands_alone(letter: char) -> bool {
    matches!(letter, '\u{2E80}'..='\u{312F}' | '\u{3190}'..='\u{9FFF}' | '\u{F900}'..='\u{FAFF}' | '\u{FF66}'..='\u{FF9D}' | '\u{20000}'..='\u{3FFFF}')
}

fn words(text: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    for chunk in text.split_whitespace() {
        let (mut start, mut spaced) = (0, true);
        let mut push = |from: usize, to: usize| {
            if let Some(text) = chunk.get(from..to).filter(|text| !text.is_empty()) {
                words.push(Word { text, spaced });
                spaced = false;
            }
        };
        for (place, letter) in chunk.char_indices().filter(|(_, letter)| stands_alone(*letter)) {
            push(start, place);
            start = place + letter.len_utf8();
            push(place, start);
        }
        push(start, chunk.len());
    }
    words
}

/// The stretches of `first` and `second` in reading order; where each has other words, those of `first` come first.
pub(crate) fn difference<'a>(first: &'a str, second: &'a str) -> Vec<Stretch<'a>> {
    let (a, b) = (words(first), words(second));
    let mut stretches: Vec<Stretch<'a>> = Vec::new();
    let mut push = |side: Side, words: Option<&[Word<'a>]>| {
        let words = words.unwrap_or_default();
        match stretches.last_mut() {
            Some(last) if last.side == side => last.words.extend(words),
            _ if words.is_empty() => {}
            _ => stretches.push(Stretch { side, words: words.to_vec() }),
        }
    };
    let (mut i, mut j) = (0, 0);
    for (in_first, in_second) in common(&a, &b) {
        push(Side::First, a.get(i..in_first));
        push(Side::Second, b.get(j..in_second));
        push(Side::Both, a.get(in_first..=in_first));
        (i, j) = (in_first + 1, in_second + 1);
    }
    push(Side::First, a.get(i..));
    push(Side::Second, b.get(j..));
    stretches
}

/// The places, in both, of a longest common subsequence.
fn common(a: &[Word<'_>], b: &[Word<'_>]) -> Vec<(usize, usize)> {
    let same = |(a, b): &(&Word<'_>, &Word<'_>)| a.text == b.text;
    let head = a.iter().zip(b).take_while(same).count();
    let (a_rest, b_rest) = (a.get(head..).unwrap_or_default(), b.get(head..).unwrap_or_default());
    let tail = a_rest.iter().rev().zip(b_rest.iter().rev()).take_while(same).count();
    let a_middle = a_rest.get(..a_rest.len() - tail).unwrap_or_default();
    let b_middle = b_rest.get(..b_rest.len() - tail).unwrap_or_default();
    let mut places: Vec<(usize, usize)> = (0..head).map(|place| (place, place)).collect();
    places.extend(longest(a_middle, b_middle).into_iter().map(|(i, j)| (head + i, head + j)));
    places.extend((0..tail).map(|place| (a.len() - tail + place, b.len() - tail + place)));
    places
}

fn longest(a: &[Word<'_>], b: &[Word<'_>]) -> Vec<(usize, usize)> {
    let width = b.len() + 1;
    if a.is_empty() || b.is_empty() || (a.len() + 1) * width > MAX_CELLS {
        return Vec::new();
    }
    // At (i, j): how many words a[i..] and b[j..] have in common.
    let mut table = vec![0_u32; (a.len() + 1) * width];
    let at = |table: &[u32], i: usize, j: usize| table.get(i * width + j).copied().unwrap_or(0);
    for (i, of_a) in a.iter().enumerate().rev() {
        for (j, of_b) in b.iter().enumerate().rev() {
            let most = if of_a.text == of_b.text { at(&table, i + 1, j + 1) + 1 } else { at(&table, i + 1, j).max(at(&table, i, j + 1)) };
            if let Some(cell) = table.get_mut(i * width + j) {
                *cell = most;
            }
        }
    }
    let (mut places, mut i, mut j) = (Vec::new(), 0, 0);
    while let (Some(of_a), Some(of_b)) = (a.get(i), b.get(j)) {
        if of_a.text == of_b.text {
            places.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if at(&table, i + 1, j) >= at(&table, i, j + 1) {
            i += 1;
        } else {
            j += 1;
        }
    }
    places
}

/// One paragraph: `[-first alone-]{+second alone+}`, and what both have between. Colour repeats what the marks say.
pub(crate) fn paragraph(stretches: &[Stretch<'_>], colour: bool) -> String {
    let mut text = String::new();
    for (index, stretch) in stretches.iter().enumerate() {
        let replaces =
            stretch.side == Side::Second && index > 0 && stretches.get(index - 1).is_some_and(|before| before.side == Side::First);
        if !text.is_empty() && !replaces && stretch.words.first().is_some_and(|word| word.spaced) {
            text.push(' ');
        }
        let (open, close, paint) = match stretch.side {
            Side::Both => {
                both(&mut text, &stretch.words, index == 0, index + 1 == stretches.len());
                continue;
            }
            Side::First => ("[-", "-]", "\x1b[31m"),
            Side::Second => ("{+", "+}", "\x1b[32m"),
        };
        let (paint, plain) = if colour { (paint, "\x1b[0m") } else { ("", "") };
        // Writing to a string cannot fail.
        let _ = write!(text, "{paint}{open}{}{close}{plain}", printable(&stretch.text()));
    }
    text
}

/// What both texts have: near a difference in words, far from one as their number. Where nothing differs, the beginning is shown.
fn both(text: &mut String, words: &[Word<'_>], is_first: bool, is_last: bool) {
    let (before, after) = match (is_first, is_last) {
        (true, true) => (EQUAL_WORDS, 0),
        _ => (if is_first { 0 } else { CONTEXT }, if is_last { 0 } else { CONTEXT }),
    };
    let left_out = words.len().saturating_sub(before + after);
    // A number in the place of a few words would not be shorter.
    if left_out <= CONTEXT {
        text.push_str(&printable(&joined(words)));
        return;
    }
    let head = joined(words.get(..before).unwrap_or_default());
    let tail = joined(words.get(words.len() - after..).unwrap_or_default());
    let shown = [printable(&head), format!("[... {left_out} words ...]"), printable(&tail)];
    text.push_str(&shown.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn marked(first: &str, second: &str) -> String {
        paragraph(&difference(first, second), false)
    }

    #[test]
    fn differences_read_in_order_and_without_colour() {
        assert_eq!(marked("the quick brown fox", "the slow brown  fox"), "the [-quick-]{+slow+} brown fox");
        assert_eq!(marked("a b", "a b c"), "a b {+c+}");
        assert_eq!(marked("x a b", "a b"), "[-x-] a b");
        assert_eq!(marked("", "new"), "{+new+}");
        assert_eq!(marked("a\n b\tc", "a b c"), "a b c");
        assert_eq!(marked("\x1b[2J", ""), "[-\\u{1b}[2J-]");
        assert_eq!(paragraph(&difference("a b", "a c"), true), "a \x1b[31m[-b-]\x1b[0m\x1b[32m{+c+}\x1b[0m");
    }

    #[test]
    fn scripts_without_spaces_differ_by_letters() {
        assert_eq!(marked("日本語のテスト", "日本語のデスト"), "日本語の[-テ-]{+デ+}スト");
        assert_eq!(marked("see 東京 now", "see 京都 now"), "see [-東-]京{+都+} now");
    }

    #[test]
    fn long_common_stretches_are_left_out() {
        let long = (0..60).map(|word| format!("w{word}")).collect::<Vec<_>>().join(" ") + " ";
        let shown = marked(&format!("{long} old {long}"), &format!("{long} new {long}"));
        assert!(shown.starts_with("[... 48 words ...] w48 w49"), "{shown}");
        assert!(shown.contains("w59 [-old-]{+new+} w0"), "{shown}");
        assert!(shown.ends_with("w11 [... 48 words ...]"), "{shown}");
        assert_eq!(marked(&long, &long), long.trim_end());
        let equal = marked(&long.repeat(2), &long.repeat(2));
        assert!(equal.starts_with("w0 ") && equal.ends_with("w59 [... 60 words ...]"), "{equal}");
    }

    /// The length of a longest common subsequence, straight from its definition.
    fn slow(a: &[&str], b: &[&str]) -> usize {
        match (a, b) {
            ([], _) | (_, []) => 0,
            ([x, a_rest @ ..], [y, b_rest @ ..]) if x == y => 1 + slow(a_rest, b_rest),
            ([_, a_rest @ ..], [_, b_rest @ ..]) => slow(a_rest, b).max(slow(a, b_rest)),
        }
    }

    proptest! {
        #[test]
        fn each_text_can_be_read_off_and_nothing_common_is_marked(a in "[abc ]{0,14}", b in "[abc ]{0,14}") {
            let stretches = difference(&a, &b);
            let side = |kept: Side| stretches.iter().filter(|stretch| stretch.side == Side::Both || stretch.side == kept)
                .flat_map(|stretch| stretch.words.iter().map(|word| word.text)).collect::<Vec<_>>();
            let (a_words, b_words): (Vec<_>, Vec<_>) = (a.split_whitespace().collect(), b.split_whitespace().collect());
            prop_assert_eq!(side(Side::First), a_words.clone());
            prop_assert_eq!(side(Side::Second), b_words.clone());
            let both: usize = stretches.iter().filter(|stretch| stretch.side == Side::Both).map(|stretch| stretch.words.len()).sum();
            prop_assert_eq!(both, slow(&a_words, &b_words));
        }
    }
}
