import { element } from "./element.js";

// Who calls: a token or an API key, kept for this browser tab alone.

const storageKey = "lambdaiot.credential";
const listeners = new Set();

export const readCredential = () => sessionStorage.getItem(storageKey) ?? undefined;

function keepCredential(credential) {
  if (credential === undefined) sessionStorage.removeItem(storageKey);
  else sessionStorage.setItem(storageKey, credential);
  for (const listener of listeners) listener();
}

/** Calls `listener` on every login and logout. */
export const onSessionChange = (listener) => void listeners.add(listener);

/** What a JWT says of its bearer; `undefined` for anything else, an API key for instance. */
function readClaims(credential) {
  try {
    const part = credential.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), (byte) => byte.charCodeAt(0))));
  } catch {
    return undefined;
  }
}

/** Who is logged in, in a word; `undefined` where nobody is. */
export function nameBearer() {
  const credential = readCredential();
  return credential === undefined ? undefined : (readClaims(credential)?.sub ?? "API key");
}

async function call(path, body) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  throw new Error(typeof answer.error === "string" ? answer.error : `the gateway answered ${response.status}`);
}

async function logIn(credentials) {
  const { token } = await call("/login", credentials);
  keepCredential(token);
}

/** Fills the dialog and opens it. */
export function openLogin(dialog) {
  const bearer = nameBearer();
  dialog.replaceChildren(...(bearer === undefined ? renderForms(dialog) : renderBearer(dialog, bearer)));
  dialog.showModal();
}

function renderHead(dialog, title) {
  return element(
    "div",
    { class: "login-head" },
    element("h2", { id: "login-title" }, title),
    element(
      "button",
      { type: "button", class: "icon-button", "aria-label": "Close", click: () => dialog.close() },
      "✕",
    ),
  );
}

function renderBearer(dialog, bearer) {
  const { exp } = readClaims(readCredential()) ?? {};
  const until = exp === undefined ? "" : ` The token is good until ${new Date(exp * 1000).toLocaleString()}.`;
  const logOut = () => {
    keepCredential(undefined);
    dialog.close();
  };
  return [
    renderHead(dialog, `Logged in as ${bearer}`),
    element("p", {}, `Calls from this page carry your credential.${until} Closing the tab forgets it.`),
    element(
      "div",
      { class: "actions" },
      element("button", { type: "button", class: "button button-main", click: logOut }, "Log out"),
    ),
  ];
}

function renderForms(dialog) {
  const problem = element("p", { class: "problem", role: "alert" });
  const attempt = async (work) => {
    problem.replaceChildren();
    try {
      await work();
      dialog.close();
    } catch (error) {
      problem.replaceChildren(error.message);
    }
  };
  const field = (label, attributes) => {
    const input = element("input", { class: "input", required: true, spellcheck: "false", ...attributes });
    return { input, row: element("label", { class: "row" }, element("span", {}, label), input) };
  };
  const username = field("Username or email", { name: "username", autocomplete: "username", autofocus: true });
  const password = field("Password", { name: "password", type: "password", autocomplete: "current-password" });
  const pasted = field("Token or API key", { name: "credential", autocomplete: "off" });
  const credentials = () => ({ username: username.input.value, password: password.input.value });
  const submitTo = (work) => (event) => {
    event.preventDefault();
    void attempt(() => work(event.submitter?.value));
  };
  return [
    renderHead(dialog, "Log in"),
    element(
      "form",
      {
        submit: submitTo(async (action) => {
          if (action === "register") await call("/register", credentials());
          await logIn(credentials());
        }),
      },
      username.row,
      password.row,
      problem,
      element(
        "div",
        { class: "actions" },
        element("button", { class: "button button-main", value: "login" }, "Log in"),
        element("button", { class: "button", value: "register" }, "Register and log in"),
      ),
    ),
    element("div", { class: "or" }, "or"),
    element(
      "form",
      { submit: submitTo(async () => keepCredential(pasted.input.value.trim())) },
      pasted.row,
      element("div", { class: "actions" }, element("button", { class: "button", value: "paste" }, "Use it")),
    ),
    element("p", { class: "note" }, "Kept for this tab alone, and sent to this gateway alone."),
  ];
}
