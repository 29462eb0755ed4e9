// What a file is, before anybody has looked into it: by its name, else by its first bytes. The server
// decides by the bytes; this chooses whom to ask.

export const KINDS = { image: "Image", video: "Clip", volume: "Scan" };
const ENDINGS = {
  image: "bmp dib gif jpeg jpg jfi jfif jif jpe pjp pjpeg png apng tif tiff webp",
  video: "avi divx mkv webm m4v mov mp4 3g2 3gp qt mpeg mpg mpe vob ts m2t m2ts mts",
  volume: "dcm dicom ima mha nii nii.gz npy npz nrrd zip",
};
const KIND = new Map(
  Object.entries(ENDINGS).flatMap(([kind, endings]) => endings.split(" ").map((end) => [end, kind])),
);

/** Of a name: image, video or volume; undefined where it does not tell. */
export function kindOfName(name) {
  const parts = name.toLowerCase().split(".").slice(1);
  return KIND.get(parts.slice(-2).join(".")) ?? KIND.get(parts.at(-1));
}

/** Of a file; DICOM files often have no ending. */
export async function kindOf(file) {
  const known = kindOfName(file.name);
  if (known) return known;
  const head = new Uint8Array(await file.slice(0, 132).arrayBuffer());
  if (String.fromCharCode(...head.slice(128)) === "DICM") return "volume";
  const type = file.type.split("/")[0];
  return type in KINDS ? type : undefined;
}
