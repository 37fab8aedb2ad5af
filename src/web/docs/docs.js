import { listOperations } from "./document.js";
import { element, prose } from "./element.js";
import { renderNavigation } from "./navigation.js";
import { renderOperation } from "./operation.js";
import { nameBearer, onSessionChange, openLogin } from "./session.js";

// The page: one API at a time, its operations by tag, each of which opens where it stands.

const byId = (id) => document.getElementById(id);
const content = byId("content");
const sessionButton = byId("session");

const logIn = () => openLogin(byId("login"));

async function loadJson(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} answered ${response.status}`);
  return response.json();
}

/** The APIs of this gateway, each with its document and its operations by tag. */
async function loadApis() {
  const index = await loadJson("/docs/apis.json");
  return Promise.all(
    index.map(async ({ title, url }) => {
      const openapi = await loadJson(url);
      return { title, url, openapi, groups: listOperations(openapi) };
    }),
  );
}

/** One API's part of the page, and its operations' cards. */
function renderApi({ openapi, groups, url }, onToggle) {
  const { title, version, description } = openapi.info;
  const cards = [];
  const sections = groups.map((group) => {
    const shown = group.operations.map((operation) =>
      renderOperation(openapi, operation, { logIn, onToggle: (isOpen) => onToggle(isOpen ? operation.id : undefined) }),
    );
    cards.push(...shown);
    return element(
      "section",
      { class: "group" },
      element("h2", {}, group.name),
      group.description !== "" && element("p", {}, prose(group.description)),
      shown.map(({ card }) => card),
    );
  });
  const nothing = element("p", { class: "note", hidden: true }, "No operation matches the filter.");
  const page = element(
    "div",
    { class: "api" },
    element(
      "header",
      { class: "intro" },
      element("h1", {}, title),
      description !== undefined && element("p", { class: "lead" }, prose(description)),
      element(
        "p",
        { class: "note" },
        `Version ${version} · ${cards.length} operations · OpenAPI ${openapi.openapi}: `,
        element("a", { href: url }, url),
      ),
    ),
    sections,
    nothing,
  );
  return { page, cards, nothing };
}

function start(apis) {
  let chosen = 0;
  const pages = apis.map((api) => renderApi(api, address));
  const navigation = renderNavigation(byId("sidebar"), apis, { choose, open });
  const { filter, contents } = navigation;
  const narrow = matchMedia("(max-width: 60rem)");

  function choose(position) {
    chosen = position;
    content.replaceChildren(pages[position].page);
    navigation.showApi(position);
    applyFilter();
  }

  function applyFilter() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const isWanted = ({ method, path, summary, tag }) =>
      words.every((word) => `${method} ${path} ${summary} ${tag}`.toLowerCase().includes(word));
    const { cards, nothing } = pages[chosen];
    for (const { operation, card } of cards) card.hidden = !isWanted(operation);
    for (const { operation, item } of navigation.links[chosen]) item.hidden = !isWanted(operation);
    for (const section of document.querySelectorAll(".group, .links"))
      section.hidden = section.querySelector(".operation:not([hidden]), li:not([hidden])") === null;
    nothing.hidden = cards.some(({ card }) => !card.hidden);
    // On a phone the list is closed, and opens while a filter looks into it.
    if (narrow.matches) contents.open = words.length > 0;
  }

  /** The address names what is open, so that it can be passed on. */
  function address(id) {
    if (id !== undefined) history.replaceState(undefined, "", `#${id}`);
    navigation.markCurrent(id);
  }

  /** Shows an operation: its API, its panel, and the place. False where there is no such operation. */
  function open(id) {
    const position = pages.findIndex(({ cards }) => cards.some(({ operation }) => operation.id === id));
    if (position < 0) return false;
    filter.value = "";
    choose(position);
    const { toggle, card } = pages[position].cards.find(({ operation }) => operation.id === id);
    toggle(true);
    navigation.markCurrent(id);
    card.scrollIntoView({ block: "start" });
    return true;
  }

  /** What the filter has found, opened without a way through the list. */
  function openFirst() {
    const found = pages[chosen].cards.find(({ card }) => !card.hidden);
    if (found === undefined) return;
    address(found.operation.id);
    open(found.operation.id);
    found.card.querySelector("button").focus();
  }

  const openAddressed = () => open(decodeURIComponent(location.hash.slice(1)));
  filter.addEventListener("input", applyFilter);
  filter.addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      event.preventDefault(); // or the button that gets the focus is pressed at once
      openFirst();
    } else if (event.key === "Escape") {
      filter.value = "";
      applyFilter();
    }
  });
  addEventListener("hashchange", openAddressed);
  addEventListener("keydown", (event) => {
    const isTyping =
      event.target instanceof Element && event.target.closest("input, textarea, select, dialog") !== null;
    if (event.key !== "/" || isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    filter.focus();
  });
  if (!openAddressed()) choose(0);
}

const showSession = () => {
  const bearer = nameBearer();
  sessionButton.replaceChildren(bearer ?? "Log in");
  sessionButton.classList.toggle("is-logged-in", bearer !== undefined);
  sessionButton.setAttribute("aria-label", bearer === undefined ? "Log in" : `Logged in as ${bearer}`);
};

byId("gateway").append(location.host);
sessionButton.addEventListener("click", logIn);
onSessionChange(showSession);
showSession();
try {
  start(await loadApis());
} catch (error) {
  content.replaceChildren(
    element("p", { class: "problem", role: "alert" }, `The gateway's documents cannot be read: ${error.message}`),
  );
}
