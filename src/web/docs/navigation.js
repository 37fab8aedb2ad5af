import { element } from "./element.js";
import { renderBadge, renderPath } from "./operation.js";

// The list at the side, or on a phone on top: which API, a filter, and a link to each operation.

/** `apis`: `{ title, groups }` each. `choose` is called with an API's position, `open` with an operation's id. */
export function renderNavigation(sidebar, apis, { choose, open }) {
  const filter = element("input", {
    class: "input filter",
    type: "search",
    placeholder: "Filter operations",
    "aria-label": "Filter operations",
    "aria-keyshortcuts": "/",
    autocomplete: "off",
    spellcheck: "false",
  });
  const lists = apis.map((api) => {
    const links = [];
    const list = element(
      "div",
      { class: "operations", hidden: true },
      api.groups.map((group) =>
        element(
          "section",
          { class: "links" },
          element("h2", {}, group.name),
          element(
            "ul",
            {},
            group.operations.map((operation) => {
              const link = element(
                "a",
                // The title says what the path alone does not.
                { href: `#${operation.id}`, title: operation.summary, click: () => open(operation.id) },
                renderBadge(operation.method),
                element("span", { class: "link-path" }, renderPath(operation.path)),
              );
              const item = element("li", {}, link);
              links.push({ operation, link, item });
              return item;
            }),
          ),
        ),
      ),
    );
    return { list, links };
  });
  const tabs = apis.map((api, i) =>
    element("button", { type: "button", class: "tab", "aria-pressed": "false", click: () => choose(i) }, api.title),
  );
  const contents = element(
    "details",
    { class: "contents", open: true },
    element("summary", {}, "All operations"),
    lists.map(({ list }) => list),
  );
  sidebar.replaceChildren(
    element("div", { class: "tabs", role: "group", "aria-label": "API" }, tabs),
    filter,
    contents,
  );

  return {
    filter,
    contents,
    links: lists.map(({ links }) => links),
    showApi(position) {
      for (const [i, { list }] of lists.entries()) list.hidden = i !== position;
      for (const [i, tab] of tabs.entries()) tab.setAttribute("aria-pressed", String(i === position));
    },
    /** Marks the operation that the address names; none where `id` is undefined. */
    markCurrent(id) {
      for (const { operation, link } of lists.flatMap(({ links }) => links)) {
        if (operation.id === id) link.setAttribute("aria-current", "location");
        else link.removeAttribute("aria-current");
      }
    },
  };
}
