/** The map that the build makes (atlas.mjs). */
declare module "world" {
  type Point = [x: number, y: number];
  const world: {
    width: number;
    height: number;
    /** Country code and outline; the code is empty where ISO has none. */
    shapes: [code: string, path: string][];
    /** A point in each country. */
    spots: Record<string, Point>;
    /** A point in each region that is known. */
    regions: Record<string, Point>;
  };
  export default world;
}
