//! `ptv2ctl token`.

use crate::cli::{Output, TokenCommand, TokenCreateArgs};
use crate::failure::{Failure, Outcome};
use crate::http::{self, Api};
use crate::{render, tables};
use ptv2_common::access::{MadeToken, NewToken, TokenStatus};
use reqwest::Method;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Makes, lists or revokes tokens.
pub(crate) async fn run(
    api: &Api,
    output: Output,
    command: &TokenCommand,
) -> Result<Outcome, Failure> {
    match command {
        TokenCommand::Create(args) => create(api, output, args).await?,
        TokenCommand::List => {
            let tokens: Vec<TokenStatus> = api.get(&["tokens"]).await?;
            let now = render::now_unix_ms();
            render::either(output, tokens.as_slice(), |tokens| tables::tokens(tokens, now))?;
        }
        TokenCommand::Revoke(args) => {
            let answer = api.order::<()>(Method::DELETE, &["tokens", &args.id], None).await?;
            let token: TokenStatus = http::decode(answer).await?;
            if let Some(file) = &token.file {
                render::note(&format!(
                    "`{file}` in the coordinator's state folder holds a new one"
                ));
            }
            render::either(output, &token, |token| format!("{} revoked", token.id))?;
        }
    }
    Ok(Outcome::Done)
}

async fn create(api: &Api, output: Output, args: &TokenCreateArgs) -> Result<(), Failure> {
    let new = NewToken {
        name: args.name.clone(),
        scope: args.scope,
        expires_s: args.expires.map(|time| time.as_secs()),
        uses: args.uses,
    };
    // First, so that no token is made that has no place.
    let file = args.to.as_deref().map(|to| Ok::<_, Failure>((to, new_file(to)?))).transpose()?;
    let made = api.order(Method::POST, &["tokens"], Some(&new)).await;
    let made = match made {
        Ok(answer) => http::decode::<MadeToken>(answer).await,
        Err(failure) => Err(failure),
    };
    let Some((to, mut file)) = file else {
        let made = made?;
        render::note(&format!("{}; it is shown this once", tables::token_line(&made.status)));
        return render::either(output, &made, |made| made.token.expose().to_owned());
    };
    let written = made.and_then(|made| {
        writeln!(file, "{}", made.token.expose())
            .and_then(|()| file.sync_all())
            .map_err(|error| Failure::local("the token cannot be written", to, &error))?;
        Ok(made)
    });
    if written.is_err() {
        // Nothing of use is in it.
        drop(std::fs::remove_file(to));
    }
    let status = written?.status;
    render::note(&format!("{}; it is in {}", tables::token_line(&status), to.display()));
    render::either(output, &status, |status| status.id.clone())
}

/// A file that was not there, and that only its owner can read.
fn new_file(to: &Path) -> Result<File, Failure> {
    let mut options = File::options();
    let made = options.write(true).create_new(true).mode(0o600).open(to);
    made.map_err(|error| Failure::local("the token's file cannot be made", to, &error))
}
