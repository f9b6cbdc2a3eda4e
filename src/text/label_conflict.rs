//! Whether a set of annotated texts calls a string what another set calls it.
//!
//! The screen for labels that mean different things in different sets, in the manner of B2NERD (Yang et al., Beyond Boundaries, 2024): for a
//! name that one set labels, the first text of the other set that holds it says how that one labels it.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::Range;

use super::words::words;

/// A part of a text that bears a label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Where it begins, in bytes.
    pub start: usize,
    /// Where it ends, in bytes.
    pub end: usize,
    /// Its label, by a number that equal labels have in common.
    pub label: u64,
}

/// A text and all that is annotated in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotated {
    /// The text.
    pub text: String,
    /// Its spans, in any order; each lies on the bounds of characters.
    pub spans: Vec<Span>,
}

/// How a text labels a name that bears the label l elsewhere. Of several places in one text the first of these classes counts: many
/// sets annotate a name once, and a text that agrees anywhere does not disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// As l.
    Same,
    /// As something else.
    Wrong,
    /// Not itself, but a part of it as l.
    Span,
    /// Not at all.
    Missing,
}

impl Class {
    /// As it is written.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Wrong => "wrong",
            Self::Span => "span",
            Self::Missing => "missing",
        }
    }
}

/// Where a name was found, and how it is labelled there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The place of the text among all.
    pub text: usize,
    /// The bytes of the text.
    pub at: Range<usize>,
    /// How it is labelled.
    pub class: Class,
    /// The span that says so: none where it is missing.
    pub span: Option<Span>,
}

/// How often which class was met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// [`Class::Same`].
    pub same: u64,
    /// [`Class::Wrong`].
    pub wrong: u64,
    /// [`Class::Span`].
    pub span: u64,
    /// [`Class::Missing`].
    pub missing: u64,
}

impl Counts {
    /// Counts one more.
    pub fn add(&mut self, class: Class) {
        match class {
            Class::Same => self.same += 1,
            Class::Wrong => self.wrong += 1,
            Class::Span => self.span += 1,
            Class::Missing => self.missing += 1,
        }
    }

    /// Names that were found.
    #[must_use]
    pub fn matched(&self) -> u64 {
        self.same + self.wrong + self.span + self.missing
    }

    /// The share of these that are not labelled alike; `None` where nothing was found.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        let matched = self.matched();
        (matched > 0).then(|| (matched - self.same) as f64 / matched as f64)
    }
}

/// Texts that names are looked up in. A name is found where its bytes stand and its words are words of the text: `art` is found in `art's`
/// and not in `party`, `北京` is found in `在北京市`. A name without words is found nowhere. Words are those of UAX #29 (see [`super::words`]),
/// cut at apostrophes: what a genitive or an elision is tied to is a name.
#[derive(Debug)]
pub struct Texts<'a> {
    annotated: &'a [Annotated],
    /// For each text the bytes of its words.
    words: Vec<Vec<Range<u32>>>,
    /// For each word of a name: the texts that have it, and which of their words it is; in order.
    places: HashMap<&'a str, Vec<(u32, u32)>>,
}

/// Calls `each` with the words of a text.
fn parts<'a>(text: &'a str, mut each: impl FnMut(&'a str)) {
    words(text, |word| word.split(['\'', '’']).filter(|part| !part.is_empty()).for_each(&mut each));
}

/// Bytes that [`Texts`] holds of a text, at most.
#[must_use]
pub fn bytes(text: &str) -> usize {
    let mut count = 0;
    parts(text, |_| count += 1);
    // A vector may have twice the room that it needs.
    count * 2 * (size_of::<Range<u32>>() + size_of::<(u32, u32)>())
}

/// The words of a text with their bytes.
fn ranges(text: &str) -> Vec<(Range<u32>, &str)> {
    let mut found = Vec::new();
    parts(text, |word| {
        let start = (word.as_ptr().addr() - text.as_ptr().addr()) as u32;
        found.push((start..start + word.len() as u32, word));
    });
    found
}

impl<'a> Texts<'a> {
    /// Texts of less than 4 GiB each, in the order in which they are asked; only the `names` can be found.
    #[must_use]
    pub fn new<'n: 'a>(texts: &'a [Annotated], names: impl IntoIterator<Item = &'n str>) -> Self {
        let mut places: HashMap<&str, Vec<(u32, u32)>> = HashMap::new();
        for name in names {
            parts(name, |word| {
                places.entry(word).or_default();
            });
        }
        let index = |(place, text): (u32, &'a Annotated)| {
            let found = ranges(&text.text);
            for (number, (_, word)) in (0..).zip(&found) {
                if let Some(places) = places.get_mut(word) {
                    places.push((place, number));
                }
            }
            found.into_iter().map(|(range, _)| range).collect()
        };
        let words = (0..).zip(texts).map(index).collect();
        Self { annotated: texts, words, places }
    }

    /// The first text that holds `name` at a place that is not inside of a longer span, and what `name`, of the label `label`
    /// elsewhere, is called there.
    #[must_use]
    pub fn find(&self, name: &str, label: u64) -> Option<Found> {
        let own = ranges(name);
        let places = own.iter().map(|(_, word)| self.places.get(word).map_or(&[][..], Vec::as_slice));
        // The word that the fewest texts have leads to all places.
        let (rarest, places) = places.enumerate().min_by_key(|(_, places)| places.len())?;
        for of_text in places.chunk_by(|a, b| a.0 == b.0) {
            let text = of_text.first()?.0 as usize;
            let found = of_text.iter().filter_map(|(_, word)| {
                let at = self.occurrence(text, (*word as usize).checked_sub(rarest)?, name, &own)?;
                judge(&self.annotated[text].spans, at, label)
            });
            // The first of equal ones: places are in order.
            if let Some((class, at, span)) = found.min_by(|a, b| a.0.cmp(&b.0)) {
                return Some(Found { text, at, class, span: span.cloned() });
            }
        }
        None
    }

    /// The place of `name` in a text if its first word is word `first` of it.
    fn occurrence(&self, text: usize, first: usize, name: &str, own: &[(Range<u32>, &str)]) -> Option<Range<usize>> {
        let words = &self.words[text];
        let start = words.get(first)?.start.checked_sub(own.first()?.0.start)?;
        let end = start + name.len() as u32;
        let at = start as usize..end as usize;
        let alike =
            words.get(first..first + own.len())?.iter().zip(own).all(|(word, (own, _))| *word == (start + own.start..start + own.end));
        let apart = first.checked_sub(1).is_none_or(|before| words[before].end <= start)
            && words.get(first + own.len()).is_none_or(|after| after.start >= end);
        (alike && apart && self.annotated[text].text.get(at.clone()) == Some(name)).then_some(at)
    }
}

/// What a place is called where its name is called `label` elsewhere; `None` inside of a longer span.
fn judge(spans: &[Span], at: Range<usize>, label: u64) -> Option<(Class, Range<usize>, Option<&Span>)> {
    let length = |span: &Span| span.end - span.start;
    let covers = |span: &&Span| span.start <= at.start && at.end <= span.end;
    let inside = |span: &&Span| at.start <= span.start && span.end <= at.end && length(span) < at.len();
    if spans.iter().filter(covers).any(|span| length(span) > at.len()) {
        return None;
    }
    let alike = |a: &&Span, b: &&Span| -> Ordering { (a.label != label).cmp(&(b.label != label)).then(a.cmp(b)) };
    if let Some(span) = spans.iter().filter(covers).min_by(alike) {
        let class = if span.label == label { Class::Same } else { Class::Wrong };
        return Some((class, at, Some(span)));
    }
    let part = spans.iter().filter(|span| span.label == label).filter(inside).min();
    Some((part.map_or(Class::Missing, |_| Class::Span), at, part))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn annotated(text: &str, spans: &[(&str, u64)]) -> Annotated {
        let span = |(part, label): &(&str, u64)| {
            let start = text.find(part).unwrap();
            Span { start, end: start + part.len(), label: *label }
        };
        Annotated { text: text.into(), spans: spans.iter().map(span).collect() }
    }

    fn find(texts: &[Annotated], name: &str, label: u64) -> Option<(usize, usize, Class)> {
        Texts::new(texts, [name]).find(name, label).map(|found| (found.text, found.at.start, found.class))
    }

    #[test]
    fn a_name_is_the_same_wrong_a_part_of_it_or_missing() {
        let texts = [annotated("Paris and New York University", &[("Paris", 1), ("New York", 1)])];
        assert_eq!(find(&texts, "Paris", 1), Some((0, 0, Class::Same)));
        assert_eq!(find(&texts, "Paris", 2), Some((0, 0, Class::Wrong)));
        assert_eq!(find(&texts, "New York University", 1), Some((0, 10, Class::Span)));
        assert_eq!(find(&texts, "New York University", 2), Some((0, 10, Class::Missing)));
        assert_eq!(find(&texts, "University", 1), Some((0, 19, Class::Missing)));
        assert_eq!(find(&texts, "London", 1), None);
        let found = Texts::new(&texts, ["New York University"]).find("New York University", 1).unwrap();
        assert_eq!((found.at, found.span), (10..29, Some(Span { start: 10, end: 18, label: 1 })));
    }

    #[test]
    fn what_lies_in_a_longer_span_is_passed_over() {
        let texts = [annotated("the University of Paris", &[("University of Paris", 2)]), annotated("to Paris", &[("Paris", 1)])];
        assert_eq!(find(&texts, "Paris", 1), Some((1, 3, Class::Same)));
        assert_eq!(find(&texts[..1], "Paris", 1), None);
        // Another place of the same text may be free.
        let texts = [annotated("Paris has the University of Paris", &[("University of Paris", 2)])];
        assert_eq!(find(&texts, "Paris", 1), Some((0, 0, Class::Missing)));
    }

    #[test]
    fn of_several_places_in_one_text_agreement_counts_first() {
        let mut text = annotated("Jordan saw Jordan in Jordan", &[]);
        assert_eq!(find(&[text.clone()], "Jordan", 1), Some((0, 0, Class::Missing)));
        text.spans.push(Span { start: 11, end: 17, label: 2 });
        assert_eq!(find(&[text.clone()], "Jordan", 1), Some((0, 11, Class::Wrong)));
        text.spans.push(Span { start: 21, end: 27, label: 1 });
        assert_eq!(find(&[text.clone()], "Jordan", 1), Some((0, 21, Class::Same)));
        // One place may bear several labels.
        text.spans.push(Span { start: 11, end: 17, label: 1 });
        assert_eq!(find(&[text], "Jordan", 1), Some((0, 11, Class::Same)));
    }

    #[test]
    fn names_are_bounded_by_words() {
        let texts = |text: &str| [annotated(text, &[])];
        for (text, name, at) in [
            ("party art", "art", Some(6)),
            ("art's", "art", Some(0)),
            ("l’art d’Arte", "Arte", Some("l’art d’".len())),
            ("3.5", "3", None),
            ("well-known art", "known", Some(5)),
            ("in C++, say", "C++", Some(3)),
            ("in C, say", "C++", None),
            ("costs $5.", "$5", Some(6)),
            ("costs $50", "$5", None),
            ("他在北京市", "北京", Some("他在".len())),
            ("cafe\u{301} cafe", "cafe", Some("cafe\u{301} ".len())),
            ("New  York New York", "New York", Some(10)),
            ("New York New Jersey New York", "New Jersey", Some(9)),
            ("a ... b", "...", None),
        ] {
            assert_eq!(find(&texts(text), name, 1).map(|found| found.1), at, "{name:?} in {text:?}");
        }
    }

    #[test]
    fn the_ratio_is_of_what_was_found() {
        let mut counts = Counts::default();
        assert_eq!(counts.ratio(), None);
        for class in [Class::Same, Class::Wrong, Class::Span, Class::Missing, Class::Same] {
            counts.add(class);
        }
        assert_eq!((counts.matched(), counts.ratio()), (5, Some(0.6)));
    }

    /// By definition: every text, every place.
    fn slowly(texts: &[Annotated], name: &str, label: u64) -> Option<Found> {
        let of = |text: &str| ranges(text).into_iter().map(|(range, _)| range.start as usize..range.end as usize).collect::<Vec<_>>();
        for (place, annotated) in texts.iter().enumerate() {
            let (text, mut best) = (&annotated.text, None::<Found>);
            for start in (0..text.len()).filter(|start| text.is_char_boundary(*start) && text[*start..].starts_with(name)) {
                let at = start..start + name.len();
                let meets = |word: &Range<usize>| word.start < at.end && at.start < word.end;
                let words: Vec<Range<usize>> = of(text).into_iter().filter(meets).map(|word| word.start..word.end).collect();
                let own: Vec<Range<usize>> = of(name).into_iter().map(|word| start + word.start..start + word.end).collect();
                let longer = |span: &&Span| span.start <= at.start && span.end >= at.end && span.end - span.start > name.len();
                if own.is_empty() || words != own || annotated.spans.iter().any(|span| longer(&span)) {
                    continue;
                }
                let mut exactly: Vec<&Span> = annotated.spans.iter().filter(|span| (span.start..span.end) == at).collect();
                exactly.sort();
                let part = |span: &&&Span| span.label == label && span.start >= at.start && span.end <= at.end;
                let (class, span) = if let Some(same) = exactly.iter().find(|span| span.label == label) {
                    (Class::Same, Some(*same))
                } else if let Some(other) = exactly.first() {
                    (Class::Wrong, Some(*other))
                } else {
                    let mut parts: Vec<&Span> = annotated.spans.iter().filter(|span| part(&span)).collect();
                    parts.sort();
                    (if parts.is_empty() { Class::Missing } else { Class::Span }, parts.first().copied())
                };
                if best.as_ref().is_none_or(|best| class < best.class) {
                    best = Some(Found { text: place, at: at.clone(), class, span: span.cloned() });
                }
            }
            if best.is_some() {
                return best;
            }
        }
        None
    }

    proptest! {
        #[test]
        fn the_index_finds_what_the_definition_finds(
            texts in prop::collection::vec(("[ab'. 北e\u{301}-]{0,14}", prop::collection::vec((0_usize..14, 0_usize..14, 0_u64..3), 0..4)), 0..6),
            names in prop::collection::vec("[ab'. 北e\u{301}-]{1,5}", 1..6),
            label in 0_u64..3,
        ) {
            let texts: Vec<Annotated> = texts.into_iter().map(|(text, spans)| {
                let bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
                let at = |place: usize| bounds[place % bounds.len()];
                let spans = spans.into_iter().map(|(a, b, label)| Span { start: at(a).min(at(b)), end: at(a).max(at(b)), label });
                Annotated { spans: spans.filter(|span| span.start < span.end).collect(), text }
            }).collect();
            let index = Texts::new(&texts, names.iter().map(String::as_str));
            for name in &names {
                prop_assert_eq!(index.find(name, label), slowly(&texts, name, label), "{}", name);
            }
        }
    }
}
