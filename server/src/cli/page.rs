//! Long lists, page by page.

use clap::Args;

use super::Context;
use super::exit::Failure;

/// Which part of a long list.
#[derive(Debug, Args)]
pub(super) struct Page {
    /// How many to list at most; with --all how many to ask for at a time.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=1000))]
    pub(super) page_size: i32,
    /// Go on where a list ended: its nextPageToken.
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
    page_token: String,
    /// List all of them, page after page.
    #[arg(long)]
    all: bool,
}

impl Page {
    /// One page, or with --all that one and all that follow, and the token of what is left out. `ask` answers with the rows of the page
    /// of a token, and the token of the page after.
    pub(super) async fn read<T>(
        &self,
        mut ask: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Failure>,
    ) -> Result<(Vec<T>, String), Failure> {
        let (mut rows, mut token) = ask(self.page_token.clone()).await?;
        while self.all && !token.is_empty() {
            let (more, next) = ask(token).await?;
            rows.extend(more);
            token = next;
        }
        Ok((rows, token))
    }
}

/// Says how a list goes on.
pub(super) fn more(context: &Context, token: &str) {
    if !token.is_empty() {
        context.out.note(format!("there are more: --page-token {token}, or --all"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(page_token: &str, all: bool) -> Page {
        Page { page_size: 2, page_token: page_token.to_owned(), all }
    }

    /// Pages a, b and c.
    async fn ask(token: String) -> Result<(Vec<&'static str>, String), Failure> {
        let (row, next) = match token.as_str() {
            "" => ("a", "to b"),
            "to b" => ("b", "to c"),
            _ => ("c", ""),
        };
        Ok((vec![row], next.to_owned()))
    }

    #[tokio::test]
    async fn one_page_or_all_from_a_token_on() {
        for (token, all, rows, left) in [
            ("", false, vec!["a"], "to b"),
            ("to c", false, vec!["c"], ""),
            ("", true, vec!["a", "b", "c"], ""),
            ("to b", true, vec!["b", "c"], ""),
        ] {
            let read = page(token, all).read(ask).await.ok();
            assert_eq!(read, Some((rows, left.to_owned())), "{token} {all}");
        }
    }
}
