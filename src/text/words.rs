//! Words of a text.

use unicode_segmentation::UnicodeSegmentation;

/// Calls `each` with the words of `text` in order.
pub fn words<'a>(text: &'a str, each: impl FnMut(&'a str)) {
    text.unicode_words().for_each(each);
}
