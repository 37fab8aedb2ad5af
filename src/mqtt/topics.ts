/** How topic filters are written, for the library that matches them. */
export const topicWildcards = { wildcard_one: "+", wildcard_some: "#", separator: "/" };
