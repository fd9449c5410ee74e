// The map of the world, made small: outlines and a point for each country, projected and rounded.
// Shapes are Natural Earth's (public domain), by way of the world-atlas package.

import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const codes = require("i18n-iso-countries/codes.json");
const outlines = require("world-atlas/countries-110m.json");
const details = require("world-atlas/countries-50m.json");

/** The width of the map in its own units. */
const WIDTH = 2000;
/** What is shown: nothing is served from the ice. */
const NORTH = 83.7;
const SOUTH = -56;

/** Points that the shapes do not tell: too small for them, or part of another country there. */
const SMALL = {
  BQ: [12.2, -68.3], BV: [-54.4, 3.4], CC: [-12.2, 96.8], CX: [-10.5, 105.6], GF: [4.0, -53.0],
  GI: [36.1, -5.4], GP: [16.2, -61.5], MQ: [14.6, -61.0], RE: [-21.1, 55.5], SJ: [78.0, 16.0],
  TK: [-9.2, -171.8], TV: [-8.5, 179.2], UM: [19.3, 166.6], XK: [42.6, 20.9], YT: [-12.8, 45.2],
  AQ: [-56, 0],
};

/** Where the regions that edge-proxy knows are drawn. */
const REGIONS = { sa: [-23.5, -46.6], us: [39.0, -77.5], eu: [50.1, 8.7], ap: [1.35, 103.8] };

/** The Natural Earth projection (Patterson, Savric and Jenny), in radians of the globe. */
function project(longitude, latitude) {
  const lambda = (longitude * Math.PI) / 180;
  const phi = (latitude * Math.PI) / 180;
  const p2 = phi * phi;
  const p4 = p2 * p2;
  const x = lambda * (0.8707 - 0.131979 * p2 + p4 * (-0.013791 + p4 * (0.003971 * p2 - 0.001529 * p4)));
  const y = phi * (1.007226 + p2 * (0.015085 + p4 * (-0.044475 + 0.028874 * p2 - 0.005916 * p4)));
  return [x, y];
}

const HALF = project(180, 0)[0];
const TOP = project(0, NORTH)[1];
const SCALE = WIDTH / (2 * HALF);
const HEIGHT = Math.round((TOP - project(0, SOUTH)[1]) * SCALE);

/** A place on the map, in its units. */
function place([longitude, latitude]) {
  const [x, y] = project(longitude, latitude);
  return [(x + HALF) * SCALE, (TOP - y) * SCALE];
}

/** The rings of every polygon of a country, as degrees. */
function polygons(topology, geometry) {
  const { scale, translate } = topology.transform;
  const arc = (index) => {
    let [x, y] = [0, 0];
    const points = topology.arcs[index < 0 ? ~index : index].map(([dx, dy]) => {
      x += dx;
      y += dy;
      return [x * scale[0] + translate[0], y * scale[1] + translate[1]];
    });
    return index < 0 ? points.reverse() : points;
  };
  const ring = (arcs) => unwrap(arcs.flatMap((index, nth) => arc(index).slice(nth === 0 ? 0 : 1)));
  const all = geometry.type === "Polygon" ? [geometry.arcs] : geometry.arcs;
  return all.map((rings) => rings.map(ring));
}

/** A ring that goes on where it would cross the date line: Chukotka stays with Siberia. */
function unwrap(ring) {
  let turn = 0;
  return ring.map(([x, y], nth) => {
    const step = nth === 0 ? 0 : x - ring[nth - 1][0];
    if (Math.abs(step) > 180) turn -= Math.sign(step) * 360;
    return [x + turn, y];
  });
}

/** Twice the area of a ring, and its middle. */
function middle(ring) {
  let [area, x, y] = [0, 0, 0];
  for (let i = 0; i < ring.length; i += 1) {
    const [a, b] = [ring[i], ring[(i + 1) % ring.length]];
    const cross = a[0] * b[1] - b[0] * a[1];
    area += cross;
    x += (a[0] + b[0]) * cross;
    y += (a[1] + b[1]) * cross;
  }
  return { area: Math.abs(area), point: area === 0 ? ring[0] : [x / (3 * area), y / (3 * area)] };
}

/** A path of whole numbers; steps from point to point, because they are short. */
function path(rings) {
  let text = "";
  for (const ring of rings) {
    let last = null;
    let steps = "";
    for (const point of ring) {
      const [x, y] = place(point).map(Math.round);
      if (last === null) {
        steps = `M${x} ${y}l`;
      } else if (x !== last[0] || y !== last[1]) {
        const [dx, dy] = [x - last[0], y - last[1]];
        steps += `${steps.endsWith("l") || dx < 0 ? "" : " "}${dx}${dy < 0 ? "" : " "}${dy}`;
      }
      last = [x, y];
    }
    // An island of one point has no outline.
    if (!steps.endsWith("l")) text += `${steps}z`;
  }
  return text;
}

const alpha = new Map(codes.map(([two, , numeric]) => [numeric, two]));

function code(geometry) {
  if (geometry.properties.name === "Kosovo") return "XK";
  return alpha.get(String(geometry.id).padStart(3, "0"));
}

/** What the page draws the world from. */
export function atlas() {
  const shapes = [];
  for (const geometry of outlines.objects.countries.geometries) {
    const two = code(geometry) ?? "";
    if (two === "AQ") continue;
    const text = path(polygons(outlines, geometry).flat());
    if (text !== "") shapes.push([two, text]);
  }
  shapes.sort(([a, x], [b, y]) => (a === b ? (x < y ? -1 : 1) : a < b ? -1 : 1));

  const points = new Map();
  for (const geometry of details.objects.countries.geometries) {
    const two = code(geometry);
    if (two === undefined) continue;
    const middles = polygons(details, geometry).map(([outer]) => middle(outer));
    const largest = middles.reduce((best, next) => (next.area > best.area ? next : best));
    const known = points.get(two);
    if (known === undefined || known.area < largest.area) points.set(two, largest);
  }
  const spots = {};
  for (const two of [...new Set([...points.keys(), ...Object.keys(SMALL), ...alpha.values()])].sort()) {
    const small = SMALL[two];
    const degrees = small === undefined ? points.get(two)?.point : [small[1], small[0]];
    if (degrees === undefined) throw new Error(`no point for ${two}`);
    spots[two] = place(degrees).map(Math.round);
  }
  const regions = {};
  for (const [name, [latitude, longitude]] of Object.entries(REGIONS)) {
    regions[name] = place([longitude, latitude]).map(Math.round);
  }
  return { width: WIDTH, height: HEIGHT, shapes, spots, regions };
}
