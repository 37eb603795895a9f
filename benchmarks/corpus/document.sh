## ghostscript : gs --version
cat > in.ps <<'E'
%!PS-Adobe-3.0
%%BoundingBox: 0 0 200 200
/Helvetica findfont 20 scalefont setfont 20 100 moveto (flora) show showpage
%%EOF
E
g() { gs -q -dNOPAUSE -dBATCH -dSAFER -r30 "$@" in.ps; }
g -sDEVICE=pdfwrite -o "$OUT/gs.pdf"; g -sDEVICE=pdfwrite -dFastWebView -o "$OUT/gs-fast.pdf"; g -sDEVICE=ps2write -o "$OUT/gs.ps"; g -sDEVICE=eps2write -o "$OUT/gs.eps"; g -sDEVICE=png16m -o "$OUT/gs.png"; g -sDEVICE=jpeg -o "$OUT/gs.jpg"; g -sDEVICE=tiff24nc -o "$OUT/gs.tiff"; g -sDEVICE=tifflzw -o "$OUT/gs-lzw.tiff"; g -sDEVICE=bmp16m -o "$OUT/gs.bmp"; g -sDEVICE=psdrgb -o "$OUT/gs.psd"; g -sDEVICE=xpswrite -o "$OUT/gs.xps"; g -sDEVICE=txtwrite -o "$OUT/gs.txt"; g -sDEVICE=pcx24b -o "$OUT/gs.pcx"; g -sDEVICE=ppmraw -o "$OUT/gs.ppm"; g -sDEVICE=docxwrite -o "$OUT/gs.docx" 2>/dev/null

## qpdf : qpdf --version | head -1
gs -q -dNOPAUSE -dBATCH -sDEVICE=pdfwrite -o in.pdf -c "/Helvetica findfont 20 scalefont setfont 20 100 moveto (flora) show showpage"
qpdf in.pdf "$OUT/qpdf.pdf"; qpdf --linearize in.pdf "$OUT/qpdf-linear.pdf"; qpdf --object-streams=generate in.pdf "$OUT/qpdf-objstm.pdf"; qpdf --qdf in.pdf "$OUT/qpdf-qdf.pdf"; qpdf --encrypt u o 256 -- in.pdf "$OUT/qpdf-encrypted.pdf"; qpdf --linearize --object-streams=generate in.pdf "$OUT/qpdf-linear-objstm.pdf"; qpdf --json in.pdf > "$OUT/qpdf.json"

## exiftool : exiftool -ver
gs -q -dNOPAUSE -dBATCH -sDEVICE=pdfwrite -o in.pdf -c "showpage"; exiftool -q -o "$OUT/exiftool.pdf" -title=x in.pdf; exiftool -json "$COVER" > "$OUT/exiftool.json"; exiftool -X "$COVER" > "$OUT/exiftool.xml"; exiftool -q -o "$OUT/exiftool.xmp" -xmp:all "$COVER" 2>/dev/null; exiftool -csv "$COVER" > "$OUT/exiftool.csv"

## mupdf : mutool -v 2>&1 | head -1
gs -q -dNOPAUSE -dBATCH -sDEVICE=pdfwrite -o in.pdf -c "/Helvetica findfont 20 scalefont setfont 20 100 moveto (flora) show showpage"; mutool clean in.pdf "$OUT/mutool.pdf"; mutool clean -z in.pdf "$OUT/mutool-z.pdf"; for e in png svg psd pam pnm; do mutool draw -q -r 20 -o "$OUT/mutool.$e" in.pdf 1 2>/dev/null; done; mutool convert -o "$OUT/mutool.cbz" in.pdf 2>/dev/null

## pandoc : pandoc --version | head -1
for e in docx odt pptx epub html json latex rtf rst xml icml opml ipynb fb2 tei man; do pandoc -s -M title=flora "$WORDS" -f markdown -t "${e/xml/docbook}" -o "$OUT/pandoc.$e" 2>/dev/null; done

## libreoffice : soffice --headless --version | head -1
cp "$WORDS" in.txt; printf 'a,b\n1,2\n3,4\n' > in.csv; cat > in.fodp <<'E'
<?xml version="1.0" encoding="UTF-8"?><office:document xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" xmlns:draw="urn:oasis:names:tc:opendocument:xmlns:drawing:1.0" office:version="1.2" office:mimetype="application/vnd.oasis.opendocument.presentation"><office:body><office:presentation><draw:page draw:name="one"/></office:presentation></office:body></office:document>
E
export HOME=$PWD; o() { timeout 100 soffice --headless --convert-to "$1" --outdir . "$2" >/dev/null 2>&1; }
for e in docx odt doc rtf pdf fodt html epub; do o $e in.txt && mv in.$e "$OUT/libreoffice-text.$e"; done
for e in xlsx ods xls fods; do o $e in.csv && mv in.$e "$OUT/libreoffice-table.$e"; done
for e in pptx odp ppt pdf; do o $e in.fodp && mv in.$e "$OUT/libreoffice-slides.$e"; done
o odg in.fodp && mv in.odg "$OUT/libreoffice.odg"; cp "$OUT/libreoffice-text.docx" in2.docx; o docm in2.docx; mv in2.docm "$OUT/libreoffice.docm"; o svg in.fodp && mv in.svg "$OUT/libreoffice.svg"

## archives : tar --version | head -1
mkdir -p in; cp "$WORDS" in/words.txt; cp "$PIC" in/; cp "$TONE" in/
tar cf "$OUT/tar.tar" in/words.txt in/$(basename "$PIC"); tar czf "$OUT/tar.tgz" in; tar cf - in | gzip -9 > "$OUT/gzip.tar.gz"; gzip -c "$WORDS" > "$OUT/gzip.gz"; gzip -c "$TONE" > "$OUT/gzip-tone.gz"; cat "$WORDS" | gzip -c > "$OUT/gzip-pipe.gz"; zstd -q -c "$TONE" > "$OUT/zstd.zst"; cat "$TONE" | zstd -q -c --no-check > "$OUT/zstd-nocheck.zst"; xz -c "$TONE" > "$OUT/xz.xz"; bzip2 -c "$TONE" > "$OUT/bzip2.bz2"; lz4 -q -c "$TONE" > "$OUT/lz4.lz4" 2>/dev/null; brotli -c "$WORDS" > "$OUT/brotli.br" 2>/dev/null; (cd in && zip -q "$OUT/zip.zip" words.txt *.wav; zip -q - words.txt | cat > "$OUT/zip-pipe.zip"; zip -q -0 "$OUT/zip-stored.zip" words.txt *.png; zip -q -z "$OUT/zip-comment.zip" words.txt < words.txt); 7z a -bd "$OUT/7z.7z" in >/dev/null 2>&1; 7z a -bd -tzip "$OUT/7z.zip" in >/dev/null 2>&1; cat "$OUT/gzip.gz" "$OUT/gzip-pipe.gz" > "$OUT/gzip-two.gz"; gzip -c -n "$COVER" > "$OUT/gzip.svgz" 

## woff2 : woff2_compress 2>&1 | head -1
cp /usr/share/fonts/truetype/dejavu/DejaVuSansMono-BoldOblique.ttf "$OUT/dejavu.ttf" 2>/dev/null


## openscad : openscad --version 2>&1
echo 'cube([3,4,5]); translate([6,0,0]) sphere(3);' > in.scad; for e in stl off amf 3mf dxf svg; do openscad -q -o "$OUT/openscad.$e" in.scad 2>/dev/null || rm -f "$OUT/openscad.$e"; done; openscad -q --export-format binstl -o "$OUT/openscad-binary.stl" in.scad 2>/dev/null

## assimp : assimp version | grep -i version | head -1
printf 'v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 2 4\nf 1 3 4\nf 2 3 4\n' > in.obj; for e in stl ply glb gltf dae 3ds obj fbx x x3d 3mf; do assimp export in.obj "$OUT/assimp.$e" >/dev/null 2>&1; done; assimp export in.obj "$OUT/assimp-binary.stl" -fstlb >/dev/null 2>&1; assimp export in.obj "$OUT/assimp-binary.ply" -fplyb >/dev/null 2>&1
