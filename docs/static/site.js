// Boxes that scroll sideways can be focused, so that arrow keys scroll them; those that fit are no stop for TAB.
const boxes = document.querySelectorAll("pre, table, .table-wrapper, div.math");
const update = () => {
  for (const box of boxes) {
    const scrolls = ["auto", "scroll"].includes(getComputedStyle(box).overflowX);
    if (scrolls && box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
};
addEventListener("load", update);
addEventListener("resize", update);
document.addEventListener("toggle", update, true); // a fold has no size until it is opened

// The theme opens the sidebars of a narrow window by labels, which keys do not reach: their icons become buttons.
const names = { __navigation: "Contents of the site", __toc: "On this page" };
for (const icon of document.querySelectorAll(".nav-overlay-icon .icon, .toc-overlay-icon .icon")) {
  Object.assign(icon, { role: "button", tabIndex: 0, ariaLabel: names[icon.parentElement.htmlFor] });
  icon.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    icon.click();
  });
}
