//! Parts of a page that a program writes, between `<!-- NAME: begin -->` and `<!-- NAME: end -->` on lines of their own.

/// What stands in the page between the marks of this name, with its last line's end.
pub fn part<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    split(page, name).map(|[_, part, _]| part)
}

/// The page with this in place of what stands there. `None` where it has no such marks.
pub fn with(page: &str, name: &str, part: &str) -> Option<String> {
    split(page, name).map(|[head, _, tail]| format!("{head}{part}{tail}"))
}

fn split<'a>(page: &'a str, name: &str) -> Option<[&'a str; 3]> {
    let begin = format!("<!-- {name}: begin -->\n");
    let start = page.find(&begin)? + begin.len();
    let end = start + page[start..].find(&format!("<!-- {name}: end -->"))?;
    Some([&page[..start], &page[start..end], &page[end..]])
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str =
        "a\n<!-- x: begin -->\nold\n<!-- x: end -->\n<!-- y: begin -->\n<!-- y: end -->\nz\n";

    #[test]
    fn a_part_is_found_and_replaced_and_the_rest_stays() {
        assert_eq!((part(PAGE, "x"), part(PAGE, "y")), (Some("old\n"), Some("")));
        let page = with(PAGE, "x", "new\nlines\n").unwrap();
        assert_eq!(page, PAGE.replace("old", "new\nlines"));
        assert_eq!(with(&page, "x", "old\n").unwrap(), PAGE);
    }

    #[test]
    fn marks_that_are_not_there_or_not_in_order_are_no_part() {
        for page in ["", "<!-- x: begin -->\n", "<!-- x: end -->\n<!-- x: begin -->\n"] {
            assert_eq!((part(page, "x"), with(page, "x", "new")), (None, None), "{page}");
        }
        assert_eq!(part(PAGE, "z"), None);
    }
}
