// An OpenAPI 3.1 document, as far as this API uses it.

export interface Document {
  info: { title: string; description?: string; version: string };
  paths: Record<string, Partial<Record<Verb, Operation>>>;
  components: { schemas?: Record<string, Schema>; securitySchemes?: Record<string, { description?: string }> };
}

export const VERBS = ["get", "put", "post", "delete", "patch", "head", "options"] as const;
export type Verb = (typeof VERBS)[number];

export interface Operation {
  tags?: string[];
  summary?: string;
  description?: string;
  operationId?: string;
  parameters?: Parameter[];
  requestBody?: { description?: string; required?: boolean; content: Content };
  responses: Record<string, { description?: string; content?: Content }>;
  security?: Record<string, string[]>[];
}

export interface Parameter {
  name: string;
  in: string;
  description?: string;
  required?: boolean;
  schema?: Schema;
  example?: unknown;
}

export type Content = Record<string, { schema?: Schema; example?: unknown }>;

export interface Schema {
  $ref?: string;
  type?: string | string[];
  description?: string;
  properties?: Record<string, Schema>;
  required?: string[];
  items?: Schema;
  oneOf?: Schema[];
  anyOf?: Schema[];
  allOf?: Schema[];
  enum?: unknown[];
  example?: unknown;
  examples?: unknown[];
  default?: unknown;
  format?: string;
  pattern?: string;
  minimum?: number;
  maximum?: number;
  minLength?: number;
  maxLength?: number;
}

const PREFIX = "#/components/schemas/";

/** The name of the schema that is referred to. */
export function named(schema: Schema): string | null {
  return schema.$ref?.startsWith(PREFIX) === true ? schema.$ref.slice(PREFIX.length) : null;
}

/** What a schema is besides null. */
export function variants(schema: Schema): Schema[] {
  const all = schema.oneOf ?? schema.anyOf ?? schema.allOf;
  return all === undefined ? [schema] : all.filter((one) => one.type !== "null");
}

/** A value that would be accepted. */
export function example(document: Document, schema: Schema | undefined, depth = 0): unknown {
  if (schema === undefined || depth > 6) return null;
  if (schema.example !== undefined) return schema.example;
  if (schema.examples?.[0] !== undefined) return schema.examples[0];
  if (schema.enum?.[0] !== undefined) return schema.enum[0];
  const name = named(schema);
  if (name !== null) return example(document, document.components.schemas?.[name], depth + 1);
  const [first] = variants(schema);
  if (first !== undefined && first !== schema) return example(document, first, depth + 1);
  const types = typeof schema.type === "string" ? [schema.type] : (schema.type ?? []);
  if (types.includes("object")) {
    const needed = schema.required ?? [];
    const properties = Object.entries(schema.properties ?? {}).filter(([key]) => needed.includes(key));
    return Object.fromEntries(properties.map(([key, value]) => [key, example(document, value, depth + 1)]));
  }
  if (types.includes("array")) return [example(document, schema.items, depth + 1)];
  if (types.includes("integer") || types.includes("number")) return schema.minimum ?? 0;
  if (types.includes("boolean")) return false;
  return "NAME";
}
