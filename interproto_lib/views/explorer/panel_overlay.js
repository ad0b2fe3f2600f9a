// What lies above the points of a panel and follows the hand: rings, the outline of a selection, the keyboard's cross.
//
// It is drawn as SVG: where nothing is, nothing is painted, while a second canvas is laid over the first in every frame.

const NAMESPACE = "http://www.w3.org/2000/svg";
const RADII = { chosen: 9, hovered: 7 }; // pixels of the page

function svgElement(tag, attributes, ...children) {
  const made = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export class PanelOverlay {
  constructor(label) {
    this.rings = Object.fromEntries(Object.entries(RADII).map(([name, r]) => [name, makeRing(r)]));
    this.outline = svgElement("path", { fill: "rgb(128 128 128 / 0.18)", "stroke-width": 1.5, "stroke-dasharray": "5 3" });
    this.cross = svgElement("path", { d: "M4 0H14M-4 0H-14M0 4V14M0 -4V-14", "stroke-width": 1.5, display: "none" });
    this.svg = svgElement(
      "svg",
      { tabindex: 0, role: "application", "aria-label": label, fill: "none", style: "position:absolute;inset:0;width:100%;height:100%;touch-action:none;cursor:crosshair" },
      ...Object.values(this.rings), this.outline, this.cross,
    );
  }

  /** Take the page's colours. */
  setTheme({ background, text }) {
    this.svg.setAttribute("stroke", `rgb(${text})`);
    for (const ring of Object.values(this.rings)) ring.firstChild.setAttribute("stroke", `rgb(${background})`);
  }

  /** Draw rings around places (null for none), the corners of a selection, and the cross where keys move; pixels of the page. */
  draw({ chosen, hovered, corners, middle }) {
    setRing(this.rings.chosen, chosen);
    setRing(this.rings.hovered, hovered);
    setAttribute(this.outline, "d", corners.length ? `M${corners.map((corner) => corner.map(rounded)).join("L")}Z` : "");
    const focused = this.svg.matches(":focus-visible");
    setAttribute(this.cross, "display", focused ? "inline" : "none");
    if (focused) setAttribute(this.cross, "transform", `translate(${middle} ${middle})`);
    this.svg.style.outline = focused ? "2px solid var(--jp-brand-color1, Highlight)" : "none";
  }
}

function makeRing(r) {
  const circles = [5, 2].map((width) => svgElement("circle", { r, "stroke-width": width }));
  return svgElement("g", { display: "none" }, ...circles);
}

function setRing(ring, place) {
  setAttribute(ring, "display", place ? "inline" : "none");
  if (place) setAttribute(ring, "transform", `translate(${place.map(rounded).join(" ")})`);
}

/** Set what changed: a page spends time on what is set again as well. */
function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

function rounded(value) {
  return value.toFixed(2);
}
