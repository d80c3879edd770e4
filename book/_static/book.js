// docutils calls a bibliography a list, but its entries no list items; without that role it is read out as it is.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".citation-list").forEach((list) => list.removeAttribute("role"));
});
